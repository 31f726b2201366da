"""A model of volumes as a folder: it reloads equal, reads files as it reads shards, exports, and says what it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

import vlp
from tests.models.tiny import ALL, BERT, wordpieces
from vlp import hub
from vlp.core.config import ConfigError
from vlp.core.errors import UnsupportedByFormat
from vlp.export import exporters, model_card, verify
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.processor import Augment
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.kinds import load_processor
from vlp.modalities.volume import store
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Volume, to_ras
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig

SPEC = VolumeSpec(spacing=(4.0, 3.0, 3.0), size=(8, 12, 16), windows=("lung", "40/400"), mean=(0.4, 0.5))
AFFINE = np.array([[-2.0, 0.3, 0.0, 30.0], [-0.3, -2.0, 0.0, 25.0], [0.0, 0.0, 5.0, -20.0], [0.0, 0.0, 0.0, 1.0]])


TOWER = {"kind": "patch_conv", "width": 8, "hidden": 8, "local_width": 8}


def loaded(spec: VolumeSpec = SPEC, tower: dict[str, Any] = TOWER) -> hub.Pretrained:
    torch.manual_seed(0)
    config = ModelConfig(image=tower, text=BERT, dim=16)
    tokenizer = wordpieces()
    model = build_model(config, spec, tokenizer, ALL - {"attention"}, (2.0, -3.0))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    record = {"weights_sha256": "0" * 64, "extra": {}, **model.resolved_config()}
    return hub.Pretrained(model.eval(), VolumeProcessor(spec), tokenizer, record)


def scan() -> np.ndarray:
    return np.random.default_rng(1).integers(-1000, 1200, (26, 22, 11)).astype(np.int16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = loaded()
    hub.save_pretrained(tmp_path / "model", made.model, made.preprocess, made.tokenizer)
    return tmp_path / "model"


def test_a_file_a_shard_and_a_volume_are_one_thing(folder: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(scan(), AFFINE), tmp_path / "scan.nii.gz")
    voxels, affine, axes = to_ras(scan(), AFFINE)
    volume = Volume(voxels, affine, axes=axes)
    again = vlp.from_pretrained(folder)
    found = again.embed_images([tmp_path / "scan.nii.gz", store.encode(volume), volume])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], found[2], atol=0, rtol=0)
    torch.testing.assert_close(found, loaded().embed_images([tmp_path / "scan.nii.gz"] * 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("windows", [("lung", "40/400"), ("lung",)])
def test_scoring_embeds_a_volume_as_the_model_does(windows: tuple[str, ...]) -> None:
    from vlp_eval.models.vlp import FolderEmbedder

    made = loaded(VolumeSpec(spacing=(4.0, 3.0, 3.0), size=(8, 12, 16), windows=windows, mean=(0.4,)))
    voxels, affine, axes = to_ras(scan(), AFFINE)
    stored = store.encode(Volume(voxels, affine, axes=axes))
    embedder = FolderEmbedder(made, "toy", "cpu", None)
    inputs = [embedder.prepare(stored)[0]]
    expected = made.embed_images([stored])[0]
    for modality in ("image", "patches"):
        row = torch.from_numpy(embedder.encode(modality, inputs)["image"][0])
        torch.testing.assert_close(row / row.norm(), expected, atol=1e-5, rtol=0)


def test_a_heat_map_lies_on_the_files_own_voxels(folder: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(scan(), AFFINE), tmp_path / "scan.nii.gz")
    heat = vlp.from_pretrained(folder).heatmap(tmp_path / "scan.nii.gz", "nodule")
    assert heat.shape == scan().shape and np.isfinite(heat).any()


def test_a_model_that_reads_pictures_too_has_heat_maps_of_both() -> None:
    spec = VolumeSpec(spacing=(12, 12, 12), size=(4, 32, 32), windows=("lung",), image=ImageSpec(size=32, channels=1))
    made = loaded(spec, {"kind": "slices", "tower": {"kind": "conv"}})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64), dtype=np.uint8)
    heat = made.heatmap(pixels, "nodule")
    assert heat.shape == pixels.shape and np.isfinite(heat).all()
    voxels, affine, axes = to_ras(scan(), AFFINE)
    assert made.heatmap(Volume(voxels, affine, axes=axes), "nodule").shape == scan().shape


def test_what_is_saved_says_which_kind_it_is(folder: Path) -> None:
    saved = load_processor(folder)
    assert (
        isinstance(saved, VolumeProcessor)
        and saved.spec == SPEC
        and saved.fingerprint == VolumeProcessor(SPEC).fingerprint
    )
    path = folder / "preprocess.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "windows": ["lung"], "mean": [0.4]}))
    with pytest.raises(ConfigError, match="the fingerprint differs"):
        vlp.from_pretrained(folder)
    path.write_text(json.dumps({**tree, "kind": "hologram"}))
    with pytest.raises(ConfigError, match="preprocessing of kind 'hologram', this vlp knows image, volume"):
        vlp.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["vlp", "onnx"])
def test_an_export_gives_the_same_embeddings(kind: str, tmp_path: Path) -> None:
    made, exporter = loaded(), exporters.get(kind)(kind)
    exporter.write(made, tmp_path, False)
    found = exporter.load(str(tmp_path), made.preprocess.probes(), verify.probe_texts(made))
    assert verify.compare(verify.expected(made, exporter), found, exporter, False)


@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_a_format_without_volumes_refuses(kind: str) -> None:
    with pytest.raises(UnsupportedByFormat, match="no preprocessing of volumes: export with --format vlp or onnx"):
        exporters.get(kind)(kind).require_kind(loaded())


def test_the_card_states_spacing_windows_and_orientation(tmp_path: Path) -> None:
    exporter = exporters.get("vlp")("vlp")
    card = model_card.render(loaded(), tmp_path, exporter, [], name="m", licence="mit", results=[], repository="lab/m")
    for words in ("8 x 12 x 16 voxels of 4 x 3 x 3 mm", "RAS", "lung (-600/1500), 40/400 (40/400)", '"scan.nii.gz"'):
        assert words in card, words


def test_an_mr_is_no_ct() -> None:
    voxels, affine, _ = to_ras(scan(), AFFINE)
    with pytest.raises(ImageError, match=r"the model reads CT volumes .*, this one is MR"):
        loaded().embed_images([Volume(voxels, affine, "MR", range=(0.0, 900.0))])
    spec = VolumeSpec(spacing=(4.0, 3.0, 3.0), size=(8, 12, 16), windows=(), modality="MR")
    values = VolumeProcessor(spec).eval(Volume(voxels, affine, "MR", range=(0.0, 900.0)))[0]
    assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("change", [{"flip": True}, {"gamma": 0.2}, {"blur": 1.0}])
def test_what_is_of_images_is_refused_for_volumes(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment"):
        VolumeProcessor(SPEC).check_training(Augment(**change), "full")  # type: ignore[arg-type]
