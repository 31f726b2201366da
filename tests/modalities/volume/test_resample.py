"""Resampling: the reference's figures, torch's where fields of view agree, and what an area mean keeps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.modalities.geometry import Geometry
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.resample import resample, weights
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Volume

i, j, k = np.meshgrid(np.arange(20), np.arange(16), np.arange(8), indexing="ij")
Q = (3 * i**2 + 5 * j**2 + 7 * k**2 + i * j + 11 * k).astype(np.float32)  # [x, y, z] at 1.5 x 1.5 x 3 mm


def brought_to(spacing: tuple[float, float, float], size: tuple[int, int, int], voxels: np.ndarray = Q) -> np.ndarray:
    """Return voxels [x, y, z] of 1.5 x 1.5 x 3 mm at a spacing, in a box of a size, all in x, y, z."""
    spec = VolumeSpec(spacing=spacing[::-1], size=size[::-1])
    volume = Volume(voxels.transpose(2, 1, 0), np.diag([1.5, 1.5, 3, 1.0]))
    geometry = VolumeProcessor(spec).geometry(*volume.shape, *volume.spacing)
    return resample(volume.voxels, geometry, -1024).transpose(2, 1, 0)


def test_enlarging_is_linear_with_the_middles_of_both_at_one_place() -> None:
    found = brought_to((1, 1, 1), (30, 24, 24))
    points = {(0, 0, 0): 0.0, (1, 1, 1): 4.25, (7, 5, 4): 144.5833, (14, 11, 10): 671.6944, (-1, -1, -1): 2913.0}
    for at, value in points.items():
        assert found[at] == pytest.approx(value, abs=2e-3)
    assert found.mean() == pytest.approx(990.25, abs=1e-2)
    peer = torch.nn.functional.interpolate(torch.from_numpy(Q)[None, None], (30, 24, 24), mode="trilinear")[0, 0]
    np.testing.assert_allclose(found, peer, atol=1e-3)


def test_shrinking_is_the_mean_of_what_a_voxel_covers() -> None:
    found = brought_to((2, 2.5, 4), (15, 10, 6))
    points = {(0, 0, 0): 6.5625, (1, 1, 1): 57.9, (7, 5, 4): 979.3, (14, 9, 5): 2815.0625}
    for at, value in points.items():
        assert found[at] == pytest.approx(value, rel=1e-5)
    assert found.mean() == pytest.approx(996.55, rel=1e-5)
    rows = weights(8, 6, 3 / 4, 0.0)[0].toarray()
    np.testing.assert_allclose(rows[0], [0.75, 0.25, 0, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rows[3], [0, 0, 0, 0, 0.75, 0.25, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("count", "old", "new", "cells", "offset"),
    [
        (512, 0.68359375, 0.75, 467, -0.134286),
        (251, 1.5, 3.0, 126, 0.0),
        (301, 1.0, 1.5, 201, 0.0),
        (103, 2.5, 3.0, 86, 0.0),
        (7, 5.0, 1.5, 23, -0.3),
        (24, 0.7, 3.0, 6, 0.785714),
    ],
)
def test_shapes_along_an_axis(count: int, old: float, new: float, cells: int, offset: float) -> None:
    processor = VolumeProcessor(VolumeSpec(spacing=(new, 1, 1), size=(cells, 4, 4)))
    geometry = processor.geometry(count, 4, 4, old, 1, 1)
    source = (0.5 - geometry.offset[0]) / geometry.scale[0] - 0.5  # of the middle of the first voxel of the input
    assert source == pytest.approx(offset, abs=1e-6) and geometry.scale[0] == old / new
    assert processor.geometry(count, 4, 4, old, 1, 1) == geometry


def test_noise_and_mass_are_kept_as_they_are_in_the_patient() -> None:
    geometry = Geometry((60, 60, 60), (20, 20, 20), (1 / 3,) * 3, (0.0,) * 3)
    noise = np.random.default_rng(0).standard_normal((60, 60, 60)).astype(np.float32)
    assert resample(noise, geometry, 0).std() == pytest.approx(0.195, abs=0.005)
    distance = np.linalg.norm(np.indices((60, 60, 60)) - 30, axis=0)
    ball = (distance <= 3).astype(np.float32)
    assert resample(ball, geometry, 0).sum() * 27 == pytest.approx(ball.sum(), rel=1e-5)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.floats(0.1, 4), st.floats(-30, 30))
def test_rows_of_weights_are_means_about_the_voxels_middle(count: int, size: int, scale: float, offset: float) -> None:
    matrix, start, stop = weights(count, size, scale, offset)
    rows = matrix.toarray()
    centre = (np.arange(size) + 0.5 - offset) / scale
    inside = (centre > 1e-6) & (centre < count - 1e-6)
    total = rows.sum(1) if rows.size else np.zeros(size)
    np.testing.assert_allclose(total[inside], 1, atol=1e-5)
    assert (total[(centre < -1e-6) | (centre > count + 1e-6)] == 0).all() and 0 <= start <= stop <= count
    assert not rows.size or rows.min() >= 0
    reach = max(1.0, 1 / scale) / 2
    whole = inside & (centre - reach >= 0.5) & (centre + reach <= count - 0.5)  # nothing of them is cut off at the ends
    if whole.any():
        means = rows @ (np.arange(start, stop) + 0.5)
        # a voxel of which a part is covered counts at its own middle: an eighth at most
        np.testing.assert_allclose(means[whole], centre[whole], atol=1e-3 if scale >= 1 else 0.126)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(2, 12)] * 3), st.tuples(*[st.floats(0.3, 2.5)] * 3), st.tuples(*[st.floats(-4, 4)] * 3))
def test_only_what_the_input_shows_is_read_and_a_constant_stays_one(shape, scale, offset) -> None:
    found = resample(np.full(shape, 40, np.int16), Geometry(shape, (6, 5, 7), scale, offset), -1024)
    assert set(np.unique(found.round(2))) <= {40, -1024}
