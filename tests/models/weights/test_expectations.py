"""What stands beside weights is compared with the recipe, in each library's words for it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import BERT, make, wordpieces
from tests.models.towers.test_pretrained import timm_vit
from vlp.modalities.volume.spec import VolumeSpec
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.models.weights.expectations import of_folder, tell

CLIP = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tree in files.items():
        (folder / f"{name}.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return folder


FOLDERS: dict[str, dict[str, Any]] = {
    "open_clip": {
        "open_clip_config": {
            "model_cfg": {"quick_gelu": True, "vision_cfg": {"image_size": 96}, "text_cfg": {}},
            "preprocess_cfg": {"mean": CLIP, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
        }
    },
    "transformers": {
        "config": {"model_type": "clip_vision_model", "hidden_act": "quick_gelu"},
        "preprocessor_config": {
            "image_mean": CLIP, "image_std": STD, "resample": 3, "do_center_crop": True,
            "size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96},
        },
    },
    "timm": {
        "config": {
            "architecture": "vit_tiny_patch16_224",
            "pretrained_cfg": {
                "mean": CLIP, "std": STD, "input_size": [3, 96, 96], "interpolation": "bicubic", "crop_mode": "center",
            },
        }
    },
    "vlp": {
        "config": {"format": "vlp-1"},
        "preprocess": {"size": 96, "mean": CLIP, "std": STD, "interpolation": "bicubic", "resize": "crop", "version": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("library", FOLDERS)
def test_each_librarys_words(library: str, tmp_path: Path) -> None:
    folder = write(tmp_path / library, **FOLDERS[library])
    model, _ = make(image=timm_vit(64, 16), size=64, channels=3, needs=frozenset())
    said = "\n".join(tell(str(folder), folder, model, ("image",), "model.image"))
    for line in (
        "image.mean=[0.481455, 0.457827, 0.408211], the recipe has [0.5]",
        "image.std=[0.26863, 0.261303, 0.275777], the recipe has [0.25]",
        "image.size=96, the recipe has 64",
        "image.interpolation=bicubic, the recipe has area",
        "image.resize=crop, the recipe has pad",
    ):
        assert line in said
    quick = "trained with the activation quick_gelu, model.image computes gelu"
    assert (quick in said) is (library in ("open_clip", "transformers"))


def test_volumes_of_another_spacing_or_window(tmp_path: Path) -> None:
    saved = {"kind": "volume", "spacing": [3, 1.5, 1.5], "size": [8, 16, 16], "windows": ["lung"], "version": 1}
    folder = write(tmp_path, preprocess=saved)
    tree, text = ModelConfig(image={"kind": "patch_conv"}, text=BERT, dim=8), wordpieces()
    spec = VolumeSpec(spacing=(3.0, 1.5, 1.5), size=(8, 16, 16), windows=("lung",))
    model = build_model(tree, spec, text)
    assert tell(str(folder), folder, model, ("image",), "model.image") == []
    model.spec = replace(spec, spacing=(6.0, 6.0, 6.0), windows=("bone",))
    assert tell(str(folder), folder, model, ("image",), "model.image") == [
        "these weights expect volume.spacing=[3, 1.5, 1.5], the recipe has [6.0, 6.0, 6.0]",
        "these weights expect volume.windows=('lung',), the recipe has ('bone',)",
    ]
    flat = write(tmp_path / "flat", config={"model_type": "vit"}, preprocessor_config={"image_mean": CLIP, "size": 64})
    assert tell(str(flat), flat, model, ("image",), "model.image") == [
        "these weights expect volume.mean=[0.481455, 0.457827, 0.408211], the recipe has [0.5]"
    ]
    image, _ = make(needs=frozenset())
    assert "trained on volumes" in tell(str(folder), folder, image, ("image",), "model.image")[0]


def test_nothing_is_said_where_all_is_as_expected(tmp_path: Path) -> None:
    model, _ = make(image=timm_vit(64, 16), size=64, channels=3, needs=frozenset())
    same = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 64, "do_resize": True}
    folder = write(tmp_path, config={"model_type": "vit", "hidden_act": "gelu"}, preprocessor_config=same)
    assert tell(str(folder), folder, model, ("image",), "model.image") == []


@pytest.mark.parametrize(
    "broken",
    ["[]", "{", "[" * 100_000, '{"model_cfg": 3, "preprocess_cfg": {"mean": "x", "size": {"height": "y"}}}', "null"],
)
def test_a_broken_file_beside_weights_is_passed_by(broken: str, tmp_path: Path) -> None:
    expected = of_folder(write(tmp_path, open_clip_config=broken))
    assert expected.mean is None and expected.size is None
