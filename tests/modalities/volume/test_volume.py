"""One orientation behind every reader: nibabel's closest canonical, and the way back to the file's own axes."""

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.modalities.volume.volume import Volume, orientation, to_ras

ARRAY = (100 * np.arange(4)[:, None, None] + 10 * np.arange(5)[:, None] + np.arange(6)).astype(np.int16)
CASES = {  # file's affine; codes; in RAS: shape, affine, first value, that at 1, 2, 3, index and place of 123, weighted sum
    "ras_axial": (
        [[1, 0, 0, -2], [0, 1, 0, -3], [0, 0, 1, 4]],
        ("RAS", (4, 5, 6), [[1, 0, 0, -2], [0, 1, 0, -3], [0, 0, 1, 4]], 0, 123, (1, 2, 3), (-1, -1, 7), 1717100),
    ),
    "lps_ct": (
        [[-0.8, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2, -50]],
        (
            "LPS",
            (4, 5, 6),
            [[0.8, 0, 0, 97.6], [0, 0.8, 0, 86.8], [0, 0, 2, -50]],
            340,
            223,
            (2, 2, 3),
            (99.2, 88.4, -44),
            788300,
        ),
    ),
    "ipl_radchestct": (
        [[0, 0, -0.8, 2], [0, -0.8, 0, 1.6], [-0.8, 0, 0, 1.2]],
        (
            "IPL",
            (6, 5, 4),
            [[0.8, 0, 0, -2], [0, 0.8, 0, -1.6], [0, 0, 0.8, -1.2]],
            345,
            24,
            (2, 2, 2),
            (-0.4, 0, 0.4),
            1220750,
        ),
    ),
    "asr_sagittal": (
        [[0, 0, 3, -9], [0.9, 0, 0, -2], [0, 0.9, 0, -2.25]],
        (
            "ASR",
            (6, 4, 5),
            [[3, 0, 0, -9], [0, 0.9, 0, -2], [0, 0, 0.9, -2.25]],
            0,
            231,
            (3, 1, 2),
            (0, -1.1, -0.45),
            1336750,
        ),
    ),
    "oblique_small": (
        [[0.845723, -0.235777, 0.148478, 10], [0.307818, 0.647792, -0.40794, -20], [0, 0.121554, 2.462019, 30]],
        (
            "RAS",
            (4, 5, 6),
            [[0.845723, -0.235777, 0.148478, 10], [0.307818, 0.647792, -0.40794, -20], [0, 0.121554, 2.462019, 30]],
            0,
            123,
            (1, 2, 3),
            (10.819603, -19.620418, 37.629166),
            1717100,
        ),
    ),
    "oblique_large_flipped": (
        [[-0.522406, -1.788011, 0.063597, -7], [0.522406, -0.211989, 0.536403, 8], [-0.945613, 0.870677, 0.261203, 9]],
        (
            "ILA",
            (5, 6, 4),
            [
                [1.788011, 0.063597, 0.522406, -15.719261],
                [0.211989, 0.536403, -0.522406, 8.719261],
                [-0.870677, 0.261203, 0.945613, 9.645869],
            ],
            340,
            32,
            (2, 3, 2),
            (-10.907637, 9.707637, 10.57935),
            1181150,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reorientation_is_that_of_nibabel_simpleitk_and_monai(name: str) -> None:
    rows, (codes, shape, ras, first, at_123, index, place, weighted) = CASES[name]
    affine = np.array([*rows, [0, 0, 0, 1]], float)
    turned, found, axes = to_ras(ARRAY, affine)
    array = turned.transpose(2, 1, 0)  # the vectors are in x, y, z
    assert orientation(affine) == codes and array.shape == shape
    np.testing.assert_allclose(found[:3], ras, atol=1e-5)
    assert array[0, 0, 0] == first and array[1, 2, 3] == at_123 and array[index] == 123
    assert (array.ravel().astype(int) * (np.arange(array.size) + 1)).sum() == weighted
    volume = Volume(turned, found, axes=axes)
    np.testing.assert_allclose(volume.world(np.array(index)[::-1] + 0.5), place, atol=1e-5)
    np.testing.assert_allclose(volume.file_affine(), affine, atol=1e-12)
    np.testing.assert_array_equal(axes.to_file(turned), ARRAY)


def test_an_affine_that_spans_no_space_is_refused() -> None:
    for linear in (np.zeros((3, 3)), np.ones((3, 3)), np.diag([1.0, 1.0, np.nan]), np.diag([1.0, 0.0, 1.0])):
        affine = np.eye(4)
        affine[:3, :3] = linear
        with pytest.raises(ValueError, match="span no space"):
            to_ras(ARRAY, affine)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
    st.tuples(*[st.floats(0.3, 5)] * 3),
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_any_affine_gives_nibabels_array_and_comes_back(order, flipped, spacing, angles) -> None:
    linear = np.eye(3)[:, order] * np.where(flipped, -1, 1) * spacing
    for (one, other), angle in zip(itertools.combinations(range(3), 2), angles, strict=True):
        turn = np.eye(3)
        turn[[one, other], [one, other]] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        linear = turn @ linear
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (5, -7, 11)
    turned, found, axes = to_ras(ARRAY, affine)
    peer = nibabel.as_closest_canonical(nibabel.Nifti1Image(ARRAY, affine))
    np.testing.assert_array_equal(turned.transpose(2, 1, 0), np.asarray(peer.dataobj))
    np.testing.assert_allclose(found, peer.affine, atol=1e-9)
    np.testing.assert_array_equal(axes.to_file(axes.to_volume(ARRAY)), ARRAY)
    np.testing.assert_allclose(Volume(turned, found, axes=axes).file_affine(), affine, atol=1e-9)
