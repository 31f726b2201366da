"""Exports in others' formats against the native model, refusals that name the format that can, and the card."""

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.models.test_dual_encoder import CLIP_IMAGE, CLIP_TEXT, VIT
from tests.models.tiny import BERT, CONV, NONE, clip_tokens, make, wordpieces
from vlp import export_card, export_check
from vlp.config import ConfigError
from vlp.export import CannotExpress
from vlp.hub import Pretrained
from vlp.models.heads import HeadConfig
from vlp.preprocess import ImageSpec, Preprocess

TIMM = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 24, "num_heads": 3}}
RESNET = {"kind": "timm", "name": "resnet10t"}
DINO = {"kind": "hf", "config": {**VIT["config"], "model_type": "dinov2"}}
LAYER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CLIP_HF = (
    {"kind": "hf", "config": {"model_type": "clip_vision_model", **LAYER, "patch_size": 8}},
    {"kind": "hf", "pooling": "pooler", "config": {"model_type": "clip_text_model", **LAYER}},
)


def native(image: Any, text: Any = None, size: int = 32, spec: Any = None, **options: Any) -> Pretrained:
    spec = ImageSpec(**{"size": size, "channels": 1, "resize": "crop", "interpolation": "bicubic", **(spec or {})})
    options = {"needs": frozenset({"logit_scale"}), **options}
    model, tokenizer = make(image=image, text=text, size=size, channels=1, **options)
    torch.manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.05)
    record = {"weights_sha256": "0" * 64, "extra": {}, **model.resolved_config()}
    return Pretrained(model.eval(), Preprocess(spec), tokenizer, record)


def compare(loaded: Pretrained, kind: str, folder: Path, approximate: bool = False) -> list[str]:
    """Write, load with the format's library, and compare; the fresh process is another test's subject."""
    module = import_module(f"vlp.export_{kind}")
    notes: list[str] = module.write(loaded, folder, approximate)
    pictures = export_check.probes(loaded)
    found = module.load(folder, list(pictures.values()), export_check.TEXTS)
    return notes + export_check.compare(export_check.native(loaded, pictures, kind), found, kind, approximate)


HEAD = {"text_head": HeadConfig(kind="mlp", activation="gelu", bias=False, hidden=28)}
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "open_clip, timm and bert": ("open_clip", {"image": RESNET, "text": {**BERT, "pooling": "mean"}}),
    "open_clip, biomedclip's heads": ("open_clip", {"image": RESNET, **HEAD}),
    "open_clip, its own": (
        "open_clip",
        {"image": CLIP_IMAGE, "text": CLIP_TEXT, "image_head": NONE, "text_head": NONE, "tokenizer": "clip"},
    ),
    "open_clip, padded": ("open_clip", {"image": RESNET, "spec": {"resize": "pad"}}),
    "transformers, vit and bert": ("transformers", {"image": VIT}),
    "transformers, dinov2 and pooler": ("transformers", {"image": DINO, "text": {**BERT, "pooling": "pooler"}}),
    "transformers, timm vit": ("transformers", {"image": TIMM, "spec": {"resize": "squash"}}),
    "transformers, timm resnet": ("transformers", {"image": RESNET}),
    "transformers, clip": ("transformers", {"image": CLIP_HF[0], "text": CLIP_HF[1]}),
    "onnx, our own cnn": ("onnx", {"image": CONV, "image_head": HeadConfig(add_patches="max")}),
    "onnx, timm vit": ("onnx", {"image": TIMM, "text": {**BERT, "pooling": "mean_max"}}),
    "image, hf": ("image", {"image": VIT}),
    "image, timm": ("image", {"image": TIMM}),
    "text": ("text", {"image": CONV}),
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
    "an hf vit": ("open_clip", {"image": VIT}, "--format vlp, or transformers"),
    "relu heads": ("open_clip", {"image": RESNET, "text_head": HeadConfig(kind="mlp")}, "text head is another"),
    "max pooling": ("open_clip", {"image": RESNET, "text": {**BERT, "pooling": "max"}}, "pooling like 'max'"),
    "pooled patches": ("open_clip", {"image": RESNET, "image_head": HeadConfig(add_patches="max")}, "--format vlp"),
    "our cnn for transformers": ("transformers", {"image": CONV}, "kind 'conv'"),
    "heads of two layers": ("transformers", {"image": VIT, "image_head": HeadConfig(kind="mlp")}, "one linear layer"),
    "mean pooling": ("transformers", {"image": VIT, "text": {**BERT, "pooling": "mean"}}, "--format vlp or open_clip"),
    "padding": ("transformers", {"image": VIT, "spec": {"resize": "pad"}}, "do not pad images"),
    "a cnn alone": ("image", {"image": CONV}, "--format onnx or vlp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_express_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    kind, options, message = REFUSED[name]
    with pytest.raises(CannotExpress, match=message):
        import_module(f"vlp.export_{kind}").write(native(**options), tmp_path, False)


def test_another_way_of_resizing_is_measured_and_refused_unless_accepted(tmp_path: Path) -> None:
    notes = compare(native(VIT, spec={"interpolation": "area"}), "transformers", tmp_path, approximate=True)
    assert any(note.startswith("images that have to be resized: a cosine of 0.9") for note in notes)
    ours = {"images": np.eye(4, dtype=np.float32)}
    theirs = {"images": ours["images"].copy()}
    theirs["images"][3] = [0.1, 0, 0, 0.99]
    with pytest.raises(ConfigError, match=r"resizes images otherwise.*0\.9900.*--approximate"):
        export_check.compare(ours, theirs, "open_clip", False)
    notes = export_check.compare(ours, theirs, "open_clip", True)
    assert notes[-1] == "images that have to be resized: a cosine of 0.99000 with the native embedding"


def test_wrong_weights_do_not_pass(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    loaded = native(RESNET)
    module = import_module("vlp.export_open_clip")
    module.write(loaded, tmp_path, False)
    tensors = load_file(str(tmp_path / module.WEIGHTS))
    tensors["visual.head.proj.weight"][0] += 0.01
    save_file(tensors, str(tmp_path / module.WEIGHTS))
    pictures = export_check.probes(loaded)
    found = module.load(tmp_path, list(pictures.values()), export_check.TEXTS)
    with pytest.raises(ConfigError, match="images differ from the model's by"):
        export_check.compare(export_check.native(loaded, pictures, "open_clip"), found, "open_clip", False)


def test_an_open_clip_folder_knows_where_it_lies(tmp_path: Path) -> None:
    module = import_module("vlp.export_open_clip")
    module.write(native(RESNET), tmp_path, False)
    for place, expected in ((None, str(tmp_path.resolve())), ("lab/model", "lab/model")):
        text = json.loads(module.settle(tmp_path, place)["open_clip_config.json"])["model_cfg"]["text_cfg"]
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
        "name": "demo", "data": {"train": str(shards)},
        "model": {"image": {"kind": "timm", "pretrained": "hf:microsoft/rad-dino"}, "text": {"path": str(tmp_path / "bert")}},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = argparse.Namespace(
        format="vlp", name=None, to=tmp_path / "out", results=[tmp_path / "results.json"], licence="mit", push=None
    )
    text = export_card.render(native(CONV), tmp_path, options, ["images: equal"])
    data = ModelCard(text).data
    assert data.license == "mit" and data.base_model == ["microsoft/rad-dino"]
    (result,) = data.eval_results
    assert result.metric_value == 0.5 and result.metric_args["ci"] == [0.4, 0.6] and result.dataset_split == "test"
    assert "| toy | r@10 | 0.500 | 0.400 to 0.600 | 0.100 | 40 |" in text and "undefined: too few" in text
    assert "our clinic" in text and "internal" in text and "no medical device" in text
    assert str(tmp_path) not in text, "whose disk it was is nobody's business"
    assert np.isfinite(result.metric_value) and wordpieces()
