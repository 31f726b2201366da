"""Stored values to HU, and air as what shows that they are: the reference's six cases and statistics of real scans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.hounsfield import NO_AIR, check_air, to_int16, unscaled


def scan(*parts: tuple[float, float], seed: int = 0, padding: tuple[int, float] | None = None) -> np.ndarray:
    """Return int16 voxels [8, 25, 50], a tenth each of values about the given middles (mean, deviation)."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(mean, deviation, 10_000 // len(parts)) for mean, deviation in parts])
    values = np.rint(np.resize(values, 10_000)).astype(np.int16)
    if padding is not None:
        values[: int(padding[1] * 10_000)] = padding[0]
    return rng.permutation(values).reshape(8, 25, 50)


HEAD = ((-1000, 10), (-1000, 10), (-1000, 10), (40, 20))  # three quarters of air, as the reference's scanner phantom
BODY = ((-1000, 10), (-850, 40), (-100, 20), (40, 30), (300, 80))


def test_a_scan_passes_as_it_is() -> None:
    for values in (scan(*HEAD), scan(*BODY)):
        before = values.copy()
        assert check_air(values) == ()
        np.testing.assert_array_equal(values, before)


def test_constant_padding_becomes_air() -> None:
    for padding in (-1500, -2000, -3024):
        values = scan(*HEAD, padding=(padding, 0.2372))
        where = values == padding
        assert check_air(values) == (f"padding {padding} to -1024: 2372 voxels",)
        assert (values[where] == -1024).all() and (values[~where] > -1100).all()


@pytest.mark.parametrize("intercept", [-1024, -8192])
@pytest.mark.parametrize("kind", [HEAD, BODY])
def test_rescaled_twice_is_refused(intercept: int, kind: tuple[tuple[float, float], ...]) -> None:
    for padding in (None, (-1024, 0.3), (-2000, 0.2)):
        values = to_int16(scan(*kind, padding=padding), (1, intercept))
        with pytest.raises(ImageError, match=r"rescaled twice.*v2") as found:
            check_air(values)
        assert found.value.reason == "rescaled_twice" and "percentiles 1, 50 and 99" in str(found.value)
    smooth = np.full(
        (8, 25, 50), -1000, np.int16
    )  # a phantom whose air is one number looks like padding when it is moved
    smooth[:, :12] = 40
    with pytest.raises(ImageError, match="rescaled twice"):
        check_air(to_int16(smooth, (1, intercept)))


def test_lungs_cut_out_of_a_scan_are_no_scan_rescaled_twice() -> None:
    lungs = scan(
        (-850, 60),
        (-850, 60),
        (-850, 60),
        (-600, 90),
        (-700, 60),
        (-850, 40),
        (-800, 40),
        (-850, 50),
        (-300, 80),
        (30, 20),
    )
    lungs[:7, :24] = -2000
    assert check_air(lungs) == ("padding -2000 to -1024: 8400 voxels",)
    empty = np.full((8, 25, 50), -2000, np.int16)
    with pytest.raises(ImageError, match="beside padding of -2000 hardly a voxel"):
        check_air(empty)


def test_not_rescaled_is_refused() -> None:
    for intercept in (1024, 8192):
        with pytest.raises(ImageError, match=r"the 1st percentile is .* not rescaled.*`rescale`") as found:
            check_air(to_int16(scan(*BODY), (1, intercept)))
        assert found.value.reason == "not_rescaled"


def test_a_crop_without_air_is_told() -> None:
    assert check_air(scan((-600, 50), (40, 30))) == (NO_AIR,)


def test_stored_values_become_the_hu_of_pydicom_and_simpleitk() -> None:
    hu = [[-1000, 0, 40], [400, 3071, -1024]]
    for stored, scale in (
        (np.array([[24, 1024, 1064], [1424, 4095, 0]], np.uint16), (1.0, -1024.0)),
        (np.array([[7192, 8192, 8232], [8592, 11263, 7168]], np.uint16), (1.0, -8192.0)),
        (np.array([[48, 2048, 2128], [2848, 8190, 0]], np.uint16), (0.5, -1024.0)),
        (np.array(hu, np.int16), (1.0, 0.0)),
        (np.array(hu, np.float32), (1.0, 0.0)),
    ):
        found = to_int16(stored[None], scale)
        assert found.dtype == np.int16 and found[0].tolist() == hu


def test_values_beyond_int16_are_refused_with_all_of_the_range() -> None:
    values = np.array([[[-1000, 0]], [[70000, 5]], [[-90000, 5]]])
    with pytest.raises(ImageError, match="values from -90000 to 70000 after slope 1, intercept 0") as found:
        to_int16(values)
    assert found.value.reason == "not_hounsfield"


def test_values_without_a_unit_keep_what_they_are() -> None:
    stored = np.array([[[0, 1, 1000], [20000, 32767, 5]]], np.int16)
    values, span = unscaled(stored, (0.123456, 0.0))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], [[0, 0.123456, 123.456], [2469.12, 4045.282752, 0.61728]], rtol=1e-6)
    np.testing.assert_allclose(span, np.percentile(values[values > 0], (0.5, 99.5)))
    assert unscaled(stored, (1.0, 0.0))[0].dtype == np.int16
    assert unscaled(np.array([[[40000, 2]]], np.uint16), (1.0, 0.0))[0].tolist() == [[[40000, 2]]]
    assert unscaled(np.zeros((2, 2, 2), np.uint8), (1.0, 0.0))[1] == (0.0, 1.0)
    with pytest.raises(ImageError, match="are nan"):
        unscaled(np.full((1, 2, 2), np.nan), (1.0, 0.0))
    with pytest.raises(ImageError, match="32-bit"):
        unscaled(np.full((1, 2, 2), 1e300), (1.0, 0.0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-32768, 32767), min_size=1, max_size=30),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(-9000, 0),
)
def test_hu_are_rounded_or_refused_never_wrapped(stored: list[int], slope: float, intercept: int) -> None:
    values = np.array(stored, np.int32).reshape(1, 1, -1)
    expected = np.rint(values * slope + intercept)
    if np.abs(expected + 0.5).max() > 32767.5:
        with pytest.raises(ImageError, match="Hounsfield"):
            to_int16(values, (slope, intercept))
    else:
        np.testing.assert_array_equal(to_int16(values, (slope, intercept)), expected)
