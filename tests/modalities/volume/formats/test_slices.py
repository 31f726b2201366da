"""The geometry of a stack of slices: the reference's nine series, and what interpolation does to a function of the place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.formats.slices import (
    along_normal,
    aside,
    check_upright,
    even_places,
    interpolate,
    straighten,
    table_of,
)
from vlp.modalities.volume.options import VolumeOptions

AXIAL = [1, 0, 0, 0, 1, 0]
REFUSE = VolumeOptions()
SERIES = {  # orientation, positions; order, gaps, the largest step aside; the reason to refuse
    "axial_scrambled": (AXIAL, [[0, 0, z] for z in (7.5, -2.5, 2.5, 0, 5)], [1, 3, 2, 4, 0], [2.5] * 4, 0, None),
    "numbers_descend": (AXIAL, [[0, 0, z] for z in (40, 35, 30, 25)], [3, 2, 1, 0], [5.0] * 3, 0, None),
    "coronal": ([1, 0, 0, 0, 0, -1], [[0, y, 0] for y in (10, 4, 7, 1)], [3, 1, 2, 0], [3.0] * 3, 0, None),
    "oblique": (
        [1.0, 0.0, 0.0, 0.0, 0.906308, 0.422618],
        [[1, -0.53571, 8.437847], [1, 2, 3], [1, 0.732145, 5.718923], [1, -1.803564, 11.15677]],
        [1, 2, 0, 3],
        [3.0, 3.000001, 3.0],
        1e-6,
        None,
    ),
    "missing_slice": (AXIAL, [[0, 0, z] for z in (0, 2, 4, 8, 10)], [0, 1, 2, 3, 4], [2, 2, 4, 2], 0, "missing_slices"),
    "non_uniform": (
        AXIAL,
        [[0, 0, z] for z in (0, 1.1, 5.1, 9.1, 16.1)],
        [0, 1, 2, 3, 4],
        [1.1, 4, 4, 7],
        0,
        "uneven_gaps",
    ),
    "jitter": (
        AXIAL,
        [[0, 0, z] for z in (0, 1.499, 3, 4.501, 6)],
        [0, 1, 2, 3, 4],
        [1.499, 1.501, 1.501, 1.499],
        0,
        None,
    ),
    "gantry_tilt": (
        [1.0, 0.0, 0.0, 0.0, 0.948324, -0.317305],
        [[0, 0, z] for z in (0, 4.22, 8.44, 12.66)],
        [0, 1, 2, 3],
        [4.001927] * 3,
        1.339027,
        "gantry_tilt",
    ),
}


@pytest.mark.parametrize("name", SERIES)
def test_nine_series_of_the_reference(name: str) -> None:
    orientation, positions, order, gaps, step, reason = SERIES[name]
    direction, place = np.array(orientation, float), np.array(positions, float)
    along = along_normal(place, direction)
    assert np.argsort(along, kind="stable").tolist() == order
    place, along = place[order], along[order]
    np.testing.assert_allclose(np.diff(along), gaps, atol=1e-5)
    offsets = aside(place, direction)
    np.testing.assert_allclose(np.linalg.norm(np.diff(offsets, axis=0), axis=1).max(), step, atol=1e-5)

    def checked() -> np.ndarray | None:
        assert check_upright(offsets, along, REFUSE)
        return even_places(along, REFUSE)

    if reason is None:
        assert checked() is None
    else:
        with pytest.raises(ImageError) as found:
            checked()
        assert found.value.reason == reason


def test_messages_hold_the_table_and_the_option() -> None:
    missing = np.array([0.0, 2, 4, 8, 10, 18])
    with pytest.raises(ImageError) as found:
        even_places(missing, REFUSE)
    assert str(found.value) == (
        "4 slices are missing among 6, the first between 4 and 8 mm along the normal (3 x 2 mm, 1 x 4 mm, 1 x 8 mm): the "
        "option `gaps: fill` puts interpolated ones in their places"
    )
    uneven = np.array([0.0, 1.1, 5.1, 9.1, 16.1])
    for gaps in ("refuse", "fill"):  # nothing is missing that could be filled in
        with pytest.raises(
            ImageError, match=r"not uniform \(2 x 4 mm, 1 x 1.1 mm, 1 x 7 mm\): .*`gaps: resample`.* 4 mm"
        ):
            even_places(uneven, VolumeOptions(gaps=gaps))
    offsets = np.array([[0, -1.339027 * number] for number in range(4)])
    with pytest.raises(
        ImageError, match=r"18.5 degrees .* 1.339 mm aside .* 3 x 4.002 mm\. The option `tilt: resample`"
    ):
        check_upright(offsets, 4.001927 * np.arange(4), REFUSE)
    assert table_of(np.arange(1.0, 12)).endswith("3 of other lengths")


def test_missing_and_uneven_slices_are_interpolated_at_their_true_places() -> None:
    def values(along: np.ndarray) -> np.ndarray:
        return (np.asarray(along)[:, None, None] * 30 - 500 + np.arange(6)[:, None] * 2 + np.arange(5)).astype(
            np.float32
        )

    missing = np.array([0.0, 2, 4, 8, 10])
    places = even_places(missing, VolumeOptions(gaps="fill"))
    assert places.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(interpolate(values(missing), missing, places), values(places), rtol=1e-5)
    uneven = np.array([0.0, 1.1, 5.1, 9.1, 16.1])
    places = even_places(uneven, VolumeOptions(gaps="resample"))
    assert places.tolist() == [0, 4, 8, 12, 16]
    np.testing.assert_allclose(interpolate(values(uneven), uneven, places), values(places), rtol=1e-5)
    whole = interpolate(values(uneven).astype(np.int16), uneven, places)
    assert whole.dtype == np.int16 and np.abs(whole - values(places)).max() <= 1.01


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), st.tuples(st.floats(0.4, 2), st.floats(0.4, 2)), st.booleans())
def test_a_leaning_stack_is_straightened_without_moving_anything(step, spacing, is_jumpy) -> None:
    offsets = np.arange(6)[:, None] * np.array(step)
    if is_jumpy:  # a table that moves aside between slices is no tilt, and straightened all the same
        offsets[3:] += 2.3

    def values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 7 * x - 4 * y + 100

    rows, columns = np.arange(9)[:, None] * spacing[0], np.arange(8) * spacing[1]
    stack = np.stack([values(columns + x, rows + y) for x, y in offsets])
    found, start = straighten(stack, offsets, spacing, -1e6)
    y, x = np.arange(found.shape[1])[:, None] * spacing[0] + start[1], np.arange(found.shape[2]) * spacing[1] + start[0]
    for plane, (aside_x, aside_y) in zip(found, offsets, strict=True):
        inside = (x >= aside_x - 1e-9) & (x <= aside_x + 7 * spacing[1] + 1e-9)
        inside = inside & (y >= aside_y - 1e-9) & (y <= aside_y + 8 * spacing[0] + 1e-9)
        assert inside.any()
        np.testing.assert_allclose(plane[inside], np.broadcast_to(values(x, y), plane.shape)[inside], atol=1e-2)
        beyond = (x < aside_x - spacing[1]) | (x > aside_x + 8 * spacing[1]) | (y < aside_y - spacing[0])
        assert (plane[beyond] == -1e6).all()
