"""A heat map of a volume lies on the file: bright cells planted in oblique NIfTI files come back where they were planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vlp.batch import Grid
from vlp.core.config import config
from vlp.hub import Pretrained
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.spec import VolumeSpec
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.models.heads import HeadConfig
from vlp.models.towers.base import Features, TowerConfig
from vlp.models.towers.volume.base import VolumeTower
from vlp_eval.maps.nifti import write_nifti

SHAPE = (30, 28, 12)
VOXELS = [(15, 14, 6), (10, 16, 3), (20, 12, 9), (14, 18, 8)]
FILE_SPACING = (1.5, 1.2, 4.0)
OTHERS = [(1, 2), (0, 2), (0, 1)]


class Brightness(VolumeTower):
    """A cell a voxel, its feature the grey value there."""

    @config
    class Config(TowerConfig):
        pass

    def __init__(self, config: Any, spec: VolumeSpec) -> None:
        super().__init__()
        self.channels, self.width, self.patch_width = 1, 1, 2
        self.grid = Grid(spec.size, (1.0,) * 3, (0.5,) * 3)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor, patches: bool = False) -> Features:
        values = image.flatten(1)
        cells = torch.stack([values, torch.full_like(values, 0.5)], -1)
        return Features(values.mean(1, keepdim=True), cells if patches else None)

    def stages(self) -> list[list[torch.nn.Module | torch.nn.Parameter]]:
        return [[self.unused]]


def oblique(path: Path, voxel: tuple[int, int, int], orientation: str = "LPS") -> np.ndarray:
    """Write a blob of three voxels' width about a voxel as a NIfTI file, turned 12 and 7 degrees; return its affine."""
    turn = Rotation.from_euler("z", 12, degrees=True) * Rotation.from_euler("y", -7, degrees=True)
    signs = np.array([{"L": -1, "P": -1, "I": -1}.get(letter, 1) for letter in orientation])
    affine = np.eye(4)
    affine[:3, :3] = turn.as_matrix() @ np.diag(signs * FILE_SPACING)
    affine[:3, 3] = 20, 15, -22
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    away = (((places - voxel) * FILE_SPACING) ** 2).sum(-1)
    nibabel.save(nibabel.Nifti1Image((-1000 + 1500 * np.exp(-away / 18)).astype(np.int16), affine), path)
    return affine


def model_of(spacing: tuple[float, float, float], size: tuple[int, int, int]) -> Pretrained:
    torch.manual_seed(0)
    spec = VolumeSpec(spacing=spacing, size=size, windows=("-200/1800",))
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", vocab_size=60, length=16), ["a nodule mass effusion"] * 9)
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tree = ModelConfig(
        dim=8,
        image={"kind": "tests.test_hub_heat_maps:Brightness"},
        text={"kind": "hf", "config": text | {"intermediate_size": 16}},
        patch_head=HeadConfig(kind="linear"),
    )
    model = build_model(tree, spec, tokenizer, {"patches"}, (2.0, None)).eval()
    loaded = Pretrained(model, VolumeProcessor(spec), tokenizer, {})
    with torch.no_grad():  # a head by which what is bright is like the phrase, and air is its opposite
        assert model.patch_head is not None
        towards = loaded.embed_texts(["nodule"])[0]
        layer = next(module for module in model.patch_head.modules() if isinstance(module, torch.nn.Linear))
        across = torch.linalg.svd(towards[None])[2][-1]
        layer.weight.copy_(torch.stack([towards, across], 1))
        if layer.bias is not None:
            layer.bias.zero_()
    return loaded


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAI"])
def test_with_the_files_own_spacing_the_maximum_is_the_planted_voxel(orientation: str, tmp_path: Path) -> None:
    model = model_of((4.0, 1.2, 1.5), (12, 28, 30))
    for voxel in VOXELS:
        oblique(tmp_path / "a.nii.gz", voxel, orientation)
        heat = model.heatmap(tmp_path / "a.nii.gz", "nodule")
        assert heat.shape == SHAPE and np.unravel_index(int(np.nanargmax(heat)), SHAPE) == voxel


def test_through_another_spacing_the_maximum_is_within_half_a_voxel(tmp_path: Path) -> None:
    spacing = (3.0, 2.0, 2.0)
    model = model_of(spacing, (20, 20, 24))
    half = (np.array(spacing[::-1]) + FILE_SPACING) / 2  # of the model's voxel, and of the file's that it is read at
    for voxel in VOXELS:
        oblique(tmp_path / "a.nii.gz", voxel)
        heat = model.heatmap(tmp_path / "a.nii.gz", "nodule")
        found = np.unravel_index(int(np.nanargmax(heat)), SHAPE)
        assert (np.abs(np.subtract(found, voxel)) * FILE_SPACING <= half + 1e-6).all(), (found, voxel)
        shares = np.where(heat > np.nanmax(heat) - 0.05, heat, 0)
        centre = [
            np.average(np.arange(side), weights=shares.sum(axis)) for side, axis in zip(SHAPE, OTHERS, strict=True)
        ]
        assert (np.abs(np.subtract(centre, voxel)) * FILE_SPACING <= np.array(spacing[::-1]) / 2).all(), (centre, voxel)


def test_a_map_is_written_with_the_files_own_affine(tmp_path: Path) -> None:
    model = model_of((4.0, 1.2, 1.5), (12, 28, 30))
    affine = oblique(tmp_path / "a.nii.gz", VOXELS[1])
    volume = read_volume(tmp_path / "a.nii.gz", 1 << 20)
    heat = volume.axes.to_volume(model.heatmap(tmp_path / "a.nii.gz", "nodule"))
    write_nifti(tmp_path / "maps" / "map.nii.gz", heat, volume)
    found = nibabel.load(tmp_path / "maps" / "map.nii.gz")
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    assert found.shape == SHAPE and found.get_data_dtype() == np.float32
    assert found.header.get_xyzt_units()[0] == "mm" and found.header["sform_code"] > 0
    values = found.get_fdata()
    assert np.unravel_index(int(np.nanargmax(values)), SHAPE) == VOXELS[1]
