"""Maps to masks: threshold, k-means, a dense CRF, and prompts to tiny random SAMs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlp_eval.maps import masks as segment


def disc(side: int = 96) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.bool_]]:
    rows, columns = np.mgrid[:side, :side]
    distance = np.hypot(rows - 60, columns - 40)
    truth = distance < 16
    image = np.where(truth, 200, 60).astype(np.uint8)
    return np.exp(-((distance / 18) ** 2)), np.repeat(image[..., None], 3, axis=2), truth


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_masks_of_a_map() -> None:
    heat, image, truth = disc()
    assert overlap(segment.by_threshold(heat, 0.5), truth) > 0.9
    assert overlap(segment.by_kmeans(heat), truth) > 0.75
    noisy = heat + 0.25 * np.random.default_rng(0).standard_normal(heat.shape)
    assert overlap(segment.by_crf(noisy, image), truth) > overlap(segment.by_kmeans(noisy), truth)
    first, second = segment.largest_parts(np.pad(truth, ((0, 0), (0, 40))) | (np.indices((96, 136)).sum(0) > 225), 2)
    assert first.sum() > second.sum() > 0
    assert segment.box_of(truth) == [25, 45, 56, 76]
    x, y = segment.point_of(truth)
    assert abs(x - 40.5) < 2 and abs(y - 60.5) < 2
    assert not segment.by_threshold(np.full((4, 4), np.nan), 0.5).any()


def test_the_field_is_that_of_a_dense_crf() -> None:
    """Two labels and their beliefs, pair by pair, as the paper writes it: q(l) ~ exp(-unary(l) - sum of w k q(other l))."""
    rng = np.random.default_rng(0)
    shape, weights, spreads = (5, 6), (0.7, 1.3), (1.5, 3.0, 40.0)
    unary, colours = rng.normal(size=shape), rng.integers(0, 255, (*shape, 3)).astype(np.float32)
    found = segment.mean_field(unary, colours, 4, weights, spreads)
    pixels = [(row, column) for row in range(shape[0]) for column in range(shape[1])]
    kernels = np.zeros((2, len(pixels), len(pixels)))
    for i, one in enumerate(pixels):
        for j, other in enumerate(pixels):
            far = (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2
            unlike = float(((colours[one].astype(float) - colours[other]) ** 2).sum())
            if i != j:
                kernels[0, i, j] = np.exp(-far / (2 * spreads[0] ** 2))
                kernels[1, i, j] = np.exp(-far / (2 * spreads[1] ** 2) - unlike / (2 * spreads[2] ** 2))
    kernels /= np.sqrt(kernels.sum(2, keepdims=True) * kernels.sum(1, keepdims=True))
    energy = np.stack([unary.ravel() / 2, -unary.ravel() / 2])  # of labels 0 and 1
    belief = np.exp(-energy) / np.exp(-energy).sum(0)
    for _ in range(4):
        against = sum(weight * kernel @ belief[::-1].T for weight, kernel in zip(weights, kernels, strict=True)).T
        belief = np.exp(-energy - against) / np.exp(-energy - against).sum(0)
    assert np.allclose(found.ravel(), np.log(belief[1] / belief[0]), atol=1e-9)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "output_channels": 16,
            "window_size": 0,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    folder = tmp_path_factory.mktemp("sam")
    SamModel(config).eval().save_pretrained(folder)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}, "mask_size": {"longest_edge": 32}}
    SamProcessor(SamImageProcessor(**sizes, mask_pad_size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_a_tiny_random_sam_answers_boxes_and_points(sam_folder: Path, prompt: Any) -> None:
    """The answer is the one that transformers gives to the same prompt, on the image's own pixels."""
    from transformers import SamModel, SamProcessor

    _, image, truth = disc()
    image = image[:, :80]
    truth = truth[:, :80]
    answer = segment.Sam.load(str(sam_folder))(image, [truth], prompt)
    assert answer.shape == truth.shape and answer.dtype == bool
    model, processor = SamModel.from_pretrained(sam_folder).eval(), SamProcessor.from_pretrained(sam_folder)
    rows, columns = np.nonzero(truth)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    asked = {"input_boxes": [[[float(one) for one in box]]]}
    if prompt == "points":
        asked = {"input_points": [[[[40.5, 60.5]]]]}  # the middle of the disc
    inputs = processor(images=image, return_tensors="pt", **asked)
    with torch.no_grad():
        output = model(**inputs)
    masks = processor.post_process_masks(output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert (answer == masks[0][0, int(output.iou_scores[0, 0].argmax())].numpy()).all()


@pytest.mark.parametrize("prompt", ["box", "points"])
@pytest.mark.parametrize("kind", ["sam2", "sam_hq"])
def test_other_sams_of_transformers_answer_too(kind: str, prompt: Any, tmp_path: Path) -> None:
    """Named by a folder; tiny and random, so only the shape of the answer can be known, and that prompts change it."""
    import transformers as hf

    torch.manual_seed(0)
    if kind == "sam2":
        backbone = hf.Sam2HieraDetConfig(
            hidden_size=12,
            num_attention_heads=1,
            image_size=[64, 64],
            blocks_per_stage=[1, 1, 1, 1],
            embed_dim_per_stage=[12, 24, 48, 96],
            num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[4, 2, 4, 2],
            global_attention_blocks=[],
            window_positional_embedding_background_size=[4, 4],
        )
        vision = hf.Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[96, 48, 24, 12],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
        )
        prompts = hf.Sam2PromptEncoderConfig(hidden_size=32, image_size=64, mask_input_channels=4)
        decoder = hf.Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=32
        )
        config = hf.Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        hf.Sam2Model(config).eval().save_pretrained(tmp_path)
        images = hf.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
        hf.Sam2Processor(images).save_pretrained(tmp_path)
    else:
        vision = hf.SamHQVisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            output_channels=16,
            window_size=0,
            global_attn_indexes=[0, 1],
            mlp_dim=16,
            num_pos_feats=8,
        )
        decoder = hf.SamHQMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16, vit_dim=16
        )
        prompts = hf.SamHQPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
        config = hf.SamHQConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        hf.SamHQModel(config).eval().save_pretrained(tmp_path)
        sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
        images = hf.SamImageProcessor(
            **sizes, mask_size={"longest_edge": 32}, mask_pad_size={"height": 32, "width": 32}
        )
        hf.SamHQProcessor(images).save_pretrained(tmp_path)
    _, image, truth = disc()
    sam = segment.Sam.load(str(tmp_path))
    answer = sam(image, [truth], prompt)
    assert answer.shape == truth.shape and answer.dtype == bool


def test_a_sam_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SAM in 'nobody/no-sam'"):
        segment.Sam.load("nobody/no-sam")


def test_segmentation_task_with_and_without_a_sam(
    shards: Path, sam_folder: Path, tmp_path: Path, run: Any, capsys: Any
) -> None:
    """Masks of the planted world's nodules, asked for by the planted embedder, which knows where they are."""
    import cv2

    from tests.eval.planted import Planted
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet
    from vlp_eval import results
    from vlp_prep.pipeline.shard_writer import ShardWriter

    source = ShardSet(Manifest.read(shards).select("test"))
    with ShardWriter(tmp_path / "masks", source="synthetic", version="1") as writer:
        for index in range(len(source)):
            sample = source.sample(index)
            boxes = [one for one in sample.boxes if one.label == "cardiomegaly"]
            if not boxes:
                continue
            mask = np.zeros((128, 128), np.uint8)
            x1, y1, x2, y2 = (int(one) for one in boxes[0].xyxy)
            mask[y1:y2, x1:x2] = 255
            encoded = cv2.imencode(".png", mask)[1].tobytes()
            writer.write(replace(sample, masks={"heart": encoded}, split="test"))

    from tests.eval import factories

    factories.here = lambda: Planted(tmp_path / "masks")  # type: ignore[attr-defined]
    tasks = [
        {"id": "alone", "family": "segmentation", "masks": {"heart": "cardiomegaly"}},
        {"id": "asked", "family": "segmentation", "masks": {"heart": "cardiomegaly"}, "sam": str(sam_folder)},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    words = [
        "--model",
        "tests.eval.factories:here",
        "--suite",
        tmp_path / "suite.yaml",
        "--data",
        tmp_path / "masks",
        "--out",
        tmp_path / "out",
    ]
    assert run("run", *words, "--resamples", 50) == 0
    alone, asked = results.read(tmp_path / "out")["tasks"]
    assert alone["metrics"]["dice"]["value"] > 0.8 and alone["metrics"]["pixel_auroc"]["value"] > 0.95
    assert 0 <= asked["metrics"]["dice"]["value"] <= 1
    capsys.readouterr()
    assert run("check", "alone", *words[2:6]) == 0
    assert f"masks:\n  heart: {alone['data']['n']}\n" in capsys.readouterr().out
