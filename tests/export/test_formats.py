"""Exports in others' formats against the native model, refusals that name the format that can, and the card."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.models.test_dual_encoder import CLIP_IMAGE, CLIP_TEXT, VIT
from tests.models.tiny import BERT, CONV, NONE, clip_tokens, make, wordpieces
from vlp.core.config import ConfigError
from vlp.core.errors import UnsupportedByFormat
from vlp.export import Exporter, exporters, model_card, verify
from vlp.hub import Pretrained
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.models.heads import HeadConfig

TIMM = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 24, "num_heads": 3}}
RESNET = {"kind": "timm", "name": "resnet10t"}
DINO = {"kind": "hf", "config": {**VIT["config"], "model_type": "dinov2"}}
LAYER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
HF_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
CLIP_HF = (
    {"kind": "hf", "config": {"model_type": "clip_vision_model", **LAYER, "patch_size": 8}},
    {"kind": "hf", "pooling": "pooler", "config": {"model_type": "clip_text_model", **LAYER}},
)


def native(image: Any, text: Any = None, size: int = 32, spec: Any = None, **options: Any) -> Pretrained:
    spec = ImageSpec(**{"size": size, "channels": 1, "resize": "crop", "interpolation": "bicubic", **(spec or {})})
    options = {"needs": frozenset({"logit_scale"}), **options}
    model, tokenizer = make(image=image, text=text, size=size, channels=1, **options)
    torch.manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn_like(value) * 0.05
            value.add_(noise.abs() if name.endswith("running_var") else noise)
    record = {"weights_sha256": "0" * 64, "extra": {}, **model.resolved_config()}
    return Pretrained(model.eval(), ImageProcessor(spec), tokenizer, record)


def exporter_of(kind: str) -> Exporter:
    return exporters.get(kind)(kind)


def compare(loaded: Pretrained, kind: str, folder: Path, approximate: bool = False) -> list[str]:
    """Write, load with the format's library, and compare; the fresh process is another test's subject."""
    exporter = exporter_of(kind)
    notes = exporter.write(loaded, folder, approximate)
    found = exporter.load(str(folder), loaded.preprocess.probes(), verify.probe_texts(loaded))
    ours = verify.expected(loaded, exporter)
    for part in ours.values():
        assert np.linalg.norm(part[:1] - part[1:], axis=1).min() > 0.01, "a constant would be equal too"
    return notes + verify.compare(ours, found, exporter, approximate)


SIGLIP = {
    "image": {"kind": "hf", "config": {"model_type": "siglip_vision_model", **LAYER, "patch_size": 8}},
    "text": {
        "kind": "hf",
        "pooling": "pooler",
        "config": {"model_type": "siglip_text_model", **LAYER, "projection_size": 32, "max_position_embeddings": 64},
    },
    "image_head": NONE,
    "text_head": NONE,
    "dim": 32,
    "needs": frozenset({"logit_scale", "logit_bias"}),
    "spec": {"resize": "squash"},
}
HEAD = {"text_head": HeadConfig(kind="mlp", activation="gelu", bias=False, hidden=28)}
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "open_clip, timm and bert": ("open_clip", {"image": RESNET, "text": {**BERT, "pooling": "mean"}}),
    "open_clip, biomedclip's heads": ("open_clip", {"image": RESNET, **HEAD}),
    "open_clip, its own": (
        "open_clip",
        {"image": CLIP_IMAGE, "text": CLIP_TEXT, "image_head": NONE, "text_head": NONE, "tokenizer": "clip"},
    ),
    "open_clip, padded": ("open_clip", {"image": RESNET, "spec": {"resize": "pad", "pad_value": 9}}),
    "open_clip, squashed": ("open_clip", {"image": RESNET, "spec": {"resize": "squash", "interpolation": "bilinear"}}),
    "transformers, vit and bert": ("transformers", {"image": VIT}),
    "transformers, dinov2 and pooler": ("transformers", {"image": DINO, "text": {**BERT, "pooling": "pooler"}}),
    "transformers, timm vit": ("transformers", {"image": TIMM, "spec": {"resize": "squash"}}),
    "transformers, timm resnet": ("transformers", {"image": RESNET}),
    "transformers, clip": ("transformers", {"image": CLIP_HF[0], "text": CLIP_HF[1]}),
    "transformers, siglip": ("transformers", SIGLIP),
    "transformers, padded": ("transformers", {"image": VIT, "spec": {"resize": "pad", "interpolation": "bilinear"}}),
    "onnx, our own cnn": ("onnx", {"image": CONV, "image_head": HeadConfig(add_patches="max")}),
    "onnx, timm vit": ("onnx", {"image": TIMM, "text": {**BERT, "pooling": "mean_max"}}),
    "onnx, open_clip's": ("onnx", {"image": CLIP_IMAGE, "text": CLIP_TEXT, "tokenizer": "clip"}),
    "image, hf": ("image", {"image": VIT, "spec": {"resize": "squash"}}),
    "image, timm": ("image", {"image": TIMM, "spec": {"resize": "pad"}}),
    "image, one channel": ("image", {"image": {**RESNET, "channels": 1}}),
    "image, opencv's resizing": ("image", {"image": VIT, "spec": {"interpolation": "area"}}),
    "text": ("text", {"image": CONV}),
    "text, siglip": ("text", {"image": CONV, "text": SIGLIP["text"], "text_head": NONE, "dim": 32}),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_a_format_gives_the_native_embeddings(name: str, tmp_path: Path) -> None:
    kind, options = FITS[name]
    options = dict(options)
    if options.pop("tokenizer", None):
        options["tokenizer"] = clip_tokens()
    notes = compare(native(**options), kind, tmp_path)
    assert any("equal to the native model's within" in note for note in notes)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "our cnn for open_clip": ("open_clip", {"image": CONV}, "three channels"),
    "a vit of another size": ("open_clip", {"image": TIMM}, "from its name"),
    "an hf vit": ("open_clip", {"image": VIT}, "kind 'hf'.*--format vlp"),
    "relu heads": ("open_clip", {"image": RESNET, "text_head": HeadConfig(kind="mlp")}, "text head is another"),
    "max pooling": ("open_clip", {"image": RESNET, "text": {**BERT, "pooling": "max"}}, "pooling like 'max'"),
    "pooled patches": ("open_clip", {"image": RESNET, "image_head": HeadConfig(add_patches="max")}, "--format vlp"),
    "our cnn for transformers": ("transformers", {"image": CONV}, "three channels"),
    "a ResNet of transformers": (
        "transformers",
        {"image": {"kind": "hf", "config": HF_RESNET}},
        "a 'resnet' has none.*--format vlp",
    ),
    "heads of two layers": ("transformers", {"image": VIT, "image_head": HeadConfig(kind="mlp")}, "one linear layer"),
    "mean pooling": ("transformers", {"image": VIT, "text": {**BERT, "pooling": "mean"}}, "--format vlp or open_clip"),
    "padding": (
        "transformers",
        {"image": VIT, "spec": {"resize": "pad", "pad_value": 9}},
        "black only, .* open_clip or vlp",
    ),
    "opencv's resizing": (
        "transformers",
        {"image": VIT, "spec": {"interpolation": "area"}},
        "is area .*--format vlp or onnx",
    ),
    "and in open_clip": (
        "open_clip",
        {"image": RESNET, "spec": {"interpolation": "area"}},
        "is area .*--format vlp or onnx",
    ),
    "one channel": ("transformers", {"image": {**RESNET, "channels": 1}}, "--format vlp or onnx"),
    "short texts": ("transformers", {**SIGLIP, "tokenizer": wordpieces(48)}, "tokenizer.length=64"),
    "heads on siglip": ("transformers", {**SIGLIP, "image_head": HeadConfig()}, "heads of kind none"),
    "a CLIP text tower alone": (
        "text",
        {"image": CLIP_IMAGE, "text": CLIP_TEXT, "tokenizer": clip_tokens()},
        "--format vlp or onnx",
    ),
    "a cnn alone": ("image", {"image": CONV}, "--format vlp or onnx"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_express_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    kind, options, message = REFUSED[name]
    with pytest.raises(UnsupportedByFormat, match=message):
        exporter_of(kind).write(native(**options), tmp_path, False)


def test_another_way_of_resizing_is_measured_where_it_is_accepted(tmp_path: Path) -> None:
    for kind, image in (("transformers", VIT), ("open_clip", RESNET)):
        (tmp_path / kind).mkdir()
        notes = compare(
            native(image, spec={"interpolation": "area", "resize": "squash"}), kind, tmp_path / kind, approximate=True
        )
        assert any(note.startswith("images that have to be resized: a cosine of 0.") for note in notes)


@pytest.mark.parametrize(
    ("kind", "cosine", "passes"),
    [("open_clip", 0.9999, False), ("transformers", 0.9999, True), ("transformers", 0.99, False)],
)
def test_resizing_must_be_exact_but_for_the_rounding_of_tensors(kind: str, cosine: float, passes: bool) -> None:
    ours = {"images": np.eye(4, dtype=np.float32)}
    theirs = {"images": ours["images"].copy()}
    theirs["images"][3] = [(1 - cosine**2) ** 0.5, 0, 0, cosine]
    note = f"images that have to be resized: a cosine of {cosine:.5f} with the native embedding"
    if passes:
        assert verify.compare(ours, theirs, exporter_of(kind), False)[-1] == note
    else:
        with pytest.raises(ConfigError, match=rf"resizes images otherwise.*{cosine:.5f}.*--approximate"):
            verify.compare(ours, theirs, exporter_of(kind), False)
    assert verify.compare(ours, theirs, exporter_of(kind), True)[-1] == note


@pytest.mark.parametrize(
    ("name", "library"),
    [("clip", "CLIPModel"), ("siglip", "SiglipModel"), ("vit and bert", "VisionTextDualEncoderModel")],
)
def test_the_pipeline_gives_the_native_probabilities(name: str, library: str, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoModel, pipeline

    _, options = FITS[f"transformers, {name}"]
    loaded = native(**options)
    exporter_of("transformers").write(loaded, tmp_path, False)
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == library
    picture = loaded.preprocess.probes()[0]
    labels = ["there is a nodule", "no pleural effusion is seen in the left lung", "x"]
    found = pipeline("zero-shot-image-classification", str(tmp_path))(
        Image.fromarray(picture), candidate_labels=labels, hypothesis_template="{}"
    )
    model = loaded.model
    with torch.no_grad():
        cosines = (loaded.embed_images([picture]) @ loaded.embed_texts(labels).T)[0]
        logits = cosines * model.logit_scale.exp() + (model.logit_bias if model.logit_bias is not None else 0.0)
        expected = logits.sigmoid() if name == "siglip" else logits.softmax(0)
    scores = {one["label"]: one["score"] for one in found}
    assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected.max() - expected.min() > 1e-3, "a constant would pass as well"


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["pad", "crop", "squash"])
def test_transformers_processor_sees_the_same_picture(resize: Any, interpolation: Any) -> None:
    """Up to the rounding of grey levels; a margin of odd width is cut a pixel to the other side, so sizes here are even."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    from vlp.export.hf_processor import image_processor

    spec = ImageSpec(size=64, resize=resize, interpolation=interpolation, mean=(0.0,), std=(1.0,))
    settings = image_processor(spec, False)
    del settings["image_processor_type"]
    processor = CLIPImageProcessor(**settings)
    rng = np.random.default_rng(0)
    for height, width in ((128, 96), (96, 160), (64, 64), (300, 200), (48, 32)):
        picture = np.kron(rng.integers(0, 256, (height // 4, width // 4)), np.ones((4, 4))).astype(np.uint8)
        theirs = processor(images=[Image.fromarray(picture).convert("RGB")], return_tensors="np")["pixel_values"][0]
        gap = np.abs(theirs * 255 - ImageProcessor(spec).eval(picture)[0].numpy())
        assert gap.max() < 3.5 and gap.mean() < 0.2, (height, width)


def test_wrong_weights_do_not_pass(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    loaded = native(RESNET)
    exporter, weights = exporter_of("open_clip"), str(tmp_path / "open_clip_model.safetensors")
    exporter.write(loaded, tmp_path, False)
    tensors = load_file(weights)
    tensors["visual.head.proj.weight"][0] += 0.01
    save_file(tensors, weights)
    found = exporter.load(str(tmp_path), loaded.preprocess.probes(), verify.probe_texts(loaded))
    with pytest.raises(ConfigError, match="images differ from the model's by"):
        verify.compare(verify.expected(loaded, exporter), found, exporter, False)


def test_an_open_clip_folder_knows_where_it_lies(tmp_path: Path) -> None:
    exporter = exporter_of("open_clip")
    exporter.write(native(RESNET), tmp_path, False)
    for place, expected in ((None, str(tmp_path.resolve())), ("lab/model", "lab/model")):
        text = json.loads(exporter.path_dependent_files(tmp_path, place)["open_clip_config.json"])["model_cfg"][
            "text_cfg"
        ]
        assert text["hf_model_name"] == text["hf_tokenizer_name"] == expected


RESULTS = {
    "schema": "vlp-eval/1",
    "model": {"step": 3},
    "tasks": [
        {
            "id": "toy", "family": "retrieval", "status": "ok", "config_sha256": "c" * 64,
            "data": {"name": "toy", "split": "test", "n": 40, "ids_sha256": "d" * 64},
            "metrics": {
                "r@10": {"value": 0.5, "ci": [0.4, 0.6], "chance": 0.1, "primary": True, "higher_is_better": True},
                "r@1": {"value": None, "reason": "too few", "higher_is_better": True},
            },
        },
        {"id": "gone", "family": "grounding", "status": "skipped", "reason": "no boxes"},
    ],
}  # fmt: skip


def test_the_card_is_what_the_hub_understands_and_tells_no_secrets(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    shards = tmp_path / "private" / "shards"
    shards.mkdir(parents=True)
    (shards / "README.md").write_text("# our clinic\n\n**Licence:** internal\n\nPatients: 5.\n")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    recipe = {
        "name": "demo", "data": {"train": str(shards)}, "objectives": [{"kind": "mgca"}, "clip", "my_own:Objective"],
        "model": {"image": {"kind": "timm", "pretrained": "hf:microsoft/rad-dino/backbone_compatible.safetensors"},
                  "text": {"path": str(tmp_path / "bert")}, "pretrained": "open_clip:ViT-B-32/laion2b_s34b_b79k"},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = model_card.render(
        native(CONV), tmp_path, exporter_of("vlp"), ["images: equal"], name=None, licence="mit",
        results=[tmp_path / "results.json"], repository="out",
    )  # fmt: skip
    data = ModelCard(text).data
    assert data.license == "mit" and data.base_model == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "microsoft/rad-dino"]
    (result,) = data.eval_results
    assert result.metric_value == 0.5 and result.metric_args["ci"] == [0.4, 0.6] and result.dataset_split == "test"
    assert "| toy | r@10 | 0.500 | 0.400 to 0.600 | 0.100 | 40 |" in text and "undefined: too few" in text
    cited = text.partition("## Cite")[2]
    assert "arXiv 2210.06044" in cited and "arXiv 2103.00020" in cited and "my_own" not in cited
    assert data.tags == ["medical", "radiology", "vision-language", "vlp"]
    assert "our clinic" in text and "internal" in text and "no medical device" in text
    assert str(tmp_path) not in text, "whose disk it was is nobody's business"
    assert np.isfinite(result.metric_value) and wordpieces()


@pytest.mark.parametrize("kind", ["vlp", "open_clip", "transformers", "onnx", "image", "text"])
def test_the_card_says_how_to_decode(kind: str, tmp_path: Path) -> None:
    about = {"name": "demo", "licence": "mit", "results": [], "repository": "demo"}
    text = " ".join(model_card.render(native(CONV), tmp_path, exporter_of(kind), ["images: equal"], **about).split())
    assert ("as vlp decodes them (`vlp.modalities.image.decode.decode`)" in text) == (kind not in ("vlp", "text")), (
        "vlp decodes itself"
    )


@pytest.mark.parametrize("kind", ["vlp", "open_clip", "transformers", "onnx"])
def test_a_scale_above_100_is_kept(kind: str, tmp_path: Path) -> None:
    """SigLIP's is 117.2."""
    from safetensors.torch import load_file

    loaded = native(RESNET, {**BERT, "pooling": "cls"})
    assert loaded.model.logit_scale is not None
    loaded.model.logit_scale.data.fill_(math.log(117.2))
    exporter_of(kind).write(loaded, tmp_path, True)
    if kind == "onnx":
        found = json.loads((tmp_path / "config.json").read_text())["logit_scale"]
    else:
        (weights,) = tmp_path.glob("*.safetensors")
        found = float(load_file(weights)["logit_scale"])
    assert found == float(loaded.model.logit_scale.detach())
