"""Grid and Geometry in two and three dimensions, against a volume whose marked voxels are followed there and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from vlp.batch import Grid
from vlp.modalities.geometry import Geometry, resample_grid
from vlp.modalities.image.processor import Augment, ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.patch_grid import trace_grid

VOLUME = Geometry((30, 40, 20), (24, 20, 30), (0.5, 0.5, 1.5), (4.0, 0.0, 0.0))


def drawn(seed: int, dimensions: int) -> Geometry:
    """Return a geometry with random sizes, scales, offsets and, by turns, flips and rotations."""
    rng = np.random.default_rng(seed)
    found = Geometry(
        tuple(rng.integers(8, 40, dimensions).tolist()),
        tuple(rng.integers(8, 40, dimensions).tolist()),
        tuple(rng.uniform(0.3, 3, dimensions).tolist()),
        tuple(rng.uniform(-9, 9, dimensions).tolist()),
    )
    if seed % 2:
        found = found.rotated(float(rng.uniform(-180, 180)), (-2, -1))
    if seed % 3:
        found = found.flipped(int(rng.integers(dimensions)))
    return found.rotated(30, (0, 1)) if seed % 5 == 0 else found


@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_points_come_back_exactly(seed: int, dimensions: int) -> None:
    geometry, rng = drawn(seed, dimensions), np.random.default_rng(seed)
    points = rng.uniform(-50, 50, (7, 5, dimensions))
    assert np.allclose(geometry.to_source(geometry.to_input(points)), points, atol=1e-9)
    low = rng.uniform(0, 10, dimensions)
    box = (*low.tolist(), *(low + rng.uniform(1, 10, dimensions)).tolist())
    there = geometry.box_to_input(box)
    if geometry.turn is None:
        assert geometry.box_to_source(there) == pytest.approx(box)
    inside = geometry.to_input(rng.uniform(low[::-1], box[: dimensions - 1 : -1], (100, dimensions)))
    assert (inside >= np.array(there[dimensions - 1 :: -1]) - 1e-9).all()
    assert (inside <= np.array(there[: dimensions - 1 : -1]) + 1e-9).all()


def test_a_box_in_a_volume_lies_where_its_voxels_do() -> None:
    volume = np.zeros(VOLUME.source, np.uint8)
    volume[4:12, 10:20, 6:8] = 1
    box = (6, 10, 4, 8, 20, 12)  # x, y, z
    assert VOLUME.box_to_input(box) == (9, 5, 6, 12, 10, 10)
    there = VOLUME.mask_to_input(volume)
    expected = np.zeros(VOLUME.input, np.uint8)
    expected[6:10, 5:10, 9:12] = 1
    assert np.array_equal(there, expected)
    assert np.array_equal(VOLUME.mask_to_source(there), volume)
    assert VOLUME.content == (0, 0, 4, 30, 20, 19)
    flipped = VOLUME.flipped(2)
    assert np.array_equal(flipped.mask_to_input(volume), expected[:, :, ::-1])
    assert np.array_equal(flipped.mask_to_source(expected[:, :, ::-1]), volume)
    assert flipped.box_to_input(box) == (18, 5, 6, 21, 10, 10)


@pytest.mark.parametrize("turn", [False, True])
def test_a_map_in_a_volume_is_the_same_ramp_on_the_source(turn: bool) -> None:
    geometry = VOLUME.rotated(90, (1, 2)).flipped(0) if turn else VOLUME
    points = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in geometry.source), indexing="ij"), -1)
    at = geometry.to_input(points)
    ramp = np.add.outer(np.add.outer(3.0 * np.arange(24), 2.0 * np.arange(20)), np.arange(30)) + 3
    found = geometry.map_to_source(ramp)
    seen = ((at >= 0) & (at <= geometry.input)).all(-1)
    assert found.dtype == np.float32 and np.array_equal(~np.isnan(found), seen) and seen.any()
    inner = ((at >= 0.5) & (at <= np.array(geometry.input) - 0.5)).all(-1)
    x1, y1, z1, x2, y2, z2 = geometry.content
    inner &= ((at >= np.array([z1, y1, x1]) + 0.5) & (at <= np.array([z2, y2, x2]) - 0.5)).all(-1)
    assert inner.sum() > 1000 and np.allclose(found[inner], at[inner] @ [3, 2, 1], atol=1e-3)


def test_the_cells_of_a_volume_are_spread_from_their_centres() -> None:
    grid = Grid((3, 4, 5), (8.0, 5.0, 4.0), (4.0, 2.5, 2.0))
    assert grid.cells == 60
    axes = zip(grid.shape, grid.stride, grid.offset, strict=True)
    centres = [offset + stride * np.arange(count) for count, stride, offset in axes]
    cells = np.add.outer(np.add.outer(100 * centres[0], 10 * centres[1]), centres[2])
    pixels = [
        np.clip(np.arange(side) + 0.5, axis[0], axis[-1]) for side, axis in zip((24, 20, 20), centres, strict=True)
    ]
    expected = np.add.outer(np.add.outer(100 * pixels[0], 10 * pixels[1]), pixels[2])
    assert np.allclose(resample_grid(cells, grid, (24, 20, 20)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="3 x 4 x 5"):
        resample_grid(cells[0], grid, (24, 20, 20))


def test_the_grid_of_a_volume_tower_is_traced() -> None:
    tower = torch.nn.Sequential(
        torch.nn.Conv3d(1, 1, (2, 4, 4), (2, 4, 4)), torch.nn.Conv3d(1, 1, 3, 2, 1), torch.nn.AvgPool3d((1, 2, 2))
    )
    images = torch.zeros(1, 1, 8, 32, 64)
    shape = tuple(tower(images).shape[2:])
    assert trace_grid(tower, lambda: (tower(images), shape)[1], (8, 32, 64)) == Grid(
        (2, 2, 4), (4.0, 16.0, 16.0), (1.0, 6.0, 6.0)
    )


@pytest.mark.parametrize("degrees", [-33.0, 0.0, 10.0, 90.0])
def test_a_rotation_is_opencvs(degrees: float) -> None:
    size = 64
    rows, columns = np.mgrid[:size, :size] + 0.5
    blob = np.exp(-((rows - 20.5) ** 2 + (columns - 40.0) ** 2) / 8).astype(np.float32)
    matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), degrees, 1.0)
    image = cv2.warpAffine(blob, matrix, (size, size))
    centre = [(rows * image).sum() / image.sum(), (columns * image).sum() / image.sum()]
    plain = Geometry((size, size), (size, size), (1.0, 1.0), (0.0, 0.0))
    assert plain.rotated(degrees).to_input((20.5, 40.0)) == pytest.approx(centre, abs=0.02)


@pytest.mark.parametrize("resize", ["pad", "crop", "squash"])
@pytest.mark.parametrize(
    "augment",
    [
        Augment(crop_scale=(0.4, 1.3), shift=0.1),
        Augment(rotate=180.0),
        Augment(flip=True, shift=0.2),
        Augment(crop_scale=(0.5, 1.0), rotate=40.0, flip=True),
    ],
)
def test_marked_pixels_are_followed_through_every_augmentation(resize: str, augment: Augment) -> None:
    """The centre of a disc is where `to_input` says, its pixels are those of its mask, and both come back."""
    shape, at, radius = (150, 210), (70.0, 120.0), 14
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    mask = ((rows - at[0]) ** 2 + (columns - at[1]) ** 2 < radius**2).astype(np.uint8)
    box = (at[1] - radius, at[0] - radius, at[1] + radius, at[0] + radius)
    preprocess = ImageProcessor(ImageSpec(size=128, channels=1, resize=resize))  # type: ignore[arg-type]
    seen = set()
    for seed in range(25):
        image, geometry = preprocess.train(255 * mask, augment, np.random.default_rng(seed))
        weight = image[0].numpy().astype(float)
        y, x = geometry.to_input(at)
        x1, y1, x2, y2 = geometry.box_to_input(box)
        if min(x1, y1) < 0 or max(x2, y2) > 128:
            continue  # partly outside: its centre of mass is another one
        seen.add(geometry.turn)
        r, c = np.mgrid[:128, :128] + 0.5
        centre = (r * weight).sum() / weight.sum(), (c * weight).sum() / weight.sum()
        assert centre == pytest.approx((y, x), abs=0.12)
        there = geometry.mask_to_input(mask).astype(bool)
        assert (there & (weight > 127)).sum() / (there | (weight > 127)).sum() > 0.93
        assert x1 <= c[there].min() and c[there].max() <= x2 and y1 <= r[there].min() and r[there].max() <= y2
        back = geometry.mask_to_source(there)
        assert (back & mask.astype(bool)).sum() / (back | mask.astype(bool)).sum() > 0.85
        assert geometry.to_source((y, x)) == pytest.approx(at)
    assert seen
