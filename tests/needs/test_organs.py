"""Organs of a sample: their sentences, whether these call them normal, and their cells, through what was done to the volume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.needs.places import GRID, MASKS, SENTENCES, SHAPE, block, opened, sample
from vlp.batch import Grid
from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume import store
from vlp.needs.organs import Organ, OrganSettings, touched_cells

SAME = Geometry(SHAPE, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
ORGANS = {
    "heart": Organ(words=("heart", "cardi", "pericardi")),
    "lung": Organ(codes=("nodule",), words=("lung",)),
    "liver": Organ(),
    "spleen": Organ(),
}
NORMAL = ("unremarkable", "clear")


def prepared(geometry: Geometry = SAME, masked: bool = True, whole: bool = True, given: Any = None) -> dict[str, Any]:
    need = opened("extras.organs", OrganSettings(ORGANS, masked, whole, NORMAL))
    found = need.prepare(given or sample(), None, geometry)
    return {list(ORGANS)[entry.organ]: entry for entry in found}


def pooled(mask: np.ndarray, grid: Grid = GRID) -> np.ndarray:
    """The maximum over each patch of a mask on the input, whose patches fill it."""
    sides = [int(stride) for stride in grid.stride]
    cells = [
        mask[tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, sides, strict=True))].any()
        for at in np.ndindex(grid.shape)
    ]
    return np.array(cells)


def test_sentences_of_an_organ_and_whether_they_call_it_normal() -> None:
    found = prepared(masked=False)
    assert found["heart"].text == f"{SENTENCES[0]} {SENTENCES[3]}" and not found["heart"].is_normal
    assert found["lung"].text == f"{SENTENCES[1]} {SENTENCES[4]}" and not found["lung"].is_normal
    assert found["liver"].text == SENTENCES[2] and found["liver"].is_normal
    assert set(found) == {"heart", "lung", "liver"} and all(entry.cells is None for entry in found.values())
    denied = [mention for mention in sample().concepts if mention.assertion == "absent"]
    alone = prepared(masked=False, given=sample(concepts=tuple(denied)))
    assert not alone["heart"].is_normal, "an enlarged heart that no mention speaks of is not called normal"


def test_the_cells_of_a_mask_are_the_patches_that_it_touches() -> None:
    found = prepared()
    assert set(found) == {"heart", "liver"}, "the lung's mask reaches the edge of the file, the spleen has none"
    for name, entry in found.items():
        np.testing.assert_array_equal(entry.cells, pooled(MASKS[name]))
    np.testing.assert_array_equal(prepared(whole=False)["lung"].cells, pooled(MASKS["lung"]))


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 0.5, 0.5), (2.5, 0.5, 1.5)])
def test_cells_follow_scale_and_shift(scale: tuple[float, ...]) -> None:
    """Every cell that the scaled block overlaps, found by its edges."""
    size = (36, 32, 30)
    geometry = Geometry(SHAPE, size, scale, (1.0, 2.0, 0.5))
    grid = Grid((12, 8, 10), (3.0, 4.0, 3.0), (1.5, 2.0, 1.5))
    block_of = ((3, 6), (5, 9), (9, 12))
    cells, is_whole = touched_cells(block(*block_of), geometry, grid)
    expected = np.ones(grid.shape, bool)
    for axis, (low, high) in enumerate(block_of):
        edges = np.arange(grid.shape[axis]) * grid.stride[axis]
        start, stop = low * scale[axis] + geometry.offset[axis], high * scale[axis] + geometry.offset[axis]
        half = min(scale[axis], 1) / 2  # a cell that a sliver of a voxel reaches does not count
        axis_hit = (edges + grid.stride[axis] > start + half - 1e-9) & (edges < stop - half + 1e-9)
        expected &= axis_hit.reshape([-1 if other == axis else 1 for other in range(3)])
    np.testing.assert_array_equal(cells.reshape(grid.shape), expected)
    assert is_whole


def test_a_flip_and_a_turn_carry_the_cells_along() -> None:
    flipped, _ = touched_cells(MASKS["heart"], SAME.flipped(-1), GRID)
    np.testing.assert_array_equal(flipped, pooled(MASKS["heart"][:, :, ::-1]))
    square = Geometry((12, 16, 16), (12, 16, 16), (1.0,) * 3, (0.0,) * 3)
    grid = Grid((4, 4, 4), (3.0, 4.0, 4.0), (1.5, 2.0, 2.0))
    mask = MASKS["heart"][:, :, 4:]
    turned, _ = touched_cells(mask, square.rotated(90.0), grid)
    np.testing.assert_array_equal(turned, pooled(np.rot90(mask, 1, (1, 2)), grid))


@pytest.mark.parametrize("degrees", [0.0, 11.0])
@pytest.mark.parametrize("shift", [0.0, -8.0, 9.0])
def test_planes_that_share_a_cell_are_joined_and_change_nothing(degrees: float, shift: float) -> None:
    rng = np.random.default_rng(int(degrees + shift) % 7)
    mask = np.zeros((24, 20, 20), bool)
    mask[3:21, 4:16, 4:16] = rng.random((18, 12, 12)) < 0.02
    mask[3, 9, 9] = mask[20, 9, 9] = True
    geometry = Geometry(mask.shape, (16, 20, 20), (0.6, 1.0, 0.9), (shift, 0.5, 1.0))
    geometry = geometry.rotated(degrees) if degrees else geometry
    grid = Grid((4, 5, 5), (4.0, 4.0, 4.0), (2.0, 2.0, 2.0))
    expected, whole = np.zeros(grid.shape, bool), True
    for voxel in np.argwhere(mask):
        place = geometry.to_input(voxel + 0.5)
        whole = whole and all(0 < at < side for at, side in zip(place, (16, 20, 20), strict=True))
        cell = tuple(int(np.floor(at / 4)) for at in place)
        if all(0 <= index < count for index, count in zip(cell, grid.shape, strict=True)):
            expected[cell] = True
    cells, is_whole = touched_cells(mask, geometry, grid)
    np.testing.assert_array_equal(cells.reshape(grid.shape), expected)
    assert is_whole is whole is (shift == 0.0)


def test_masks_of_images(tmp_path: Path) -> None:
    """PNG masks on a grid of two axes, also where the model's tower has three: then on its one slice."""
    from PIL import Image

    flat = np.zeros((16, 20), np.uint8)
    flat[5:9, 9:12] = 255
    Image.fromarray(flat).save(tmp_path / "heart.png")
    picture = sample(masks={"heart": (tmp_path / "heart.png").read_bytes()}, volume=None)
    found = prepared(Geometry((16, 20), (16, 20), (1.0, 1.0), (0.0, 0.0)), given=picture)
    plane = Grid(GRID.shape[1:], GRID.stride[1:], GRID.offset[1:])
    np.testing.assert_array_equal(found["heart"].cells, pooled(flat > 0, plane))


def test_an_organ_that_a_crop_cuts_is_left_out() -> None:
    crop = Geometry(SHAPE, SHAPE, (1.0, 1.0, 1.0), (0.0, 0.0, -10.0))
    assert "heart" not in prepared(crop) and "heart" in prepared(crop, whole=False)
    assert "heart" not in prepared(replace(crop, offset=(0.0, 0.0, -12.0)), whole=False), "nothing of it is seen"


def test_a_mask_of_another_shape_or_damaged_is_this_samples_error() -> None:
    wrong = store.encode_mask(np.ones((2, 3, 4), bool))
    with pytest.raises(ImageError, match="mask 'heart' is 2 x 3 x 4, its image as decoded 12 x 16 x 20"):
        prepared(given=sample(masks={"heart": wrong}))
    with pytest.raises(ImageError, match="damaged"):
        prepared(given=sample(masks={"heart": b"no mask"}))


def test_what_is_missing_is_said_before_the_first_step() -> None:
    settings = OrganSettings(ORGANS, True, True, NORMAL)
    with pytest.raises(ConfigError, match="need an image tower with a feature map"):
        opened("extras.organs", settings, grid=None)
    need = opened("extras.organs", settings)
    assert need.reads_masks and need.is_in(sample()) and not need.is_in(sample(masks={}))
    assert "'spleen'" in need.holds() and not need.is_in(sample(report=None))
    assert opened("extras.organs", OrganSettings(ORGANS, False, True, NORMAL), None).is_in(sample(masks={}))
