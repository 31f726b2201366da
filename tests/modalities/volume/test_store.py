"""A stored volume: exact, read in parts, and refused where its parts cannot be trusted."""

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.store import decode, decode_mask, encode, encode_mask
from vlp.modalities.volume.volume import FileAxes, Volume

LIMIT = 1 << 24
AFFINE = np.array([[0.7, 0.01, 0, -120.3], [0, 0.7, 0.02, -99.9], [0, 0, 1.25, 17], [0, 0, 0, 1]])


def volume(shape: tuple[int, int, int] = (20, 140, 150), kind: type = np.int16) -> Volume:
    values = np.random.default_rng(0).normal(-300, 500, shape).astype(kind)
    return Volume(values, AFFINE, "CT", None, FileAxes((2, 0, 1), (True, False, True)), ("slope 1, intercept -1024",))


def packed(values: np.ndarray, meta: bool = True, **parameters: object) -> bytes:
    array = blosc2.asarray(values, chunks=(8, 32, 32), blocks=(4, 16, 16), cparams=blosc2.CParams(**parameters))
    if meta:
        record = {"affine": np.eye(4).tolist(), "modality": "CT", "range": None, "order": [2, 1, 0], "steps": []}
        array.schunk.vlmeta["vlp"] = {**record, "flipped": [False] * 3}
    return array.to_cframe()


def test_a_volume_comes_back_to_the_bit_with_all_that_is_said_of_it() -> None:
    for stored in (volume(), volume((9, 33, 7), np.float32)):
        back = decode(encode(stored), LIMIT)
        np.testing.assert_array_equal(back.voxels[:], stored.voxels)
        np.testing.assert_array_equal(back.affine, AFFINE)
        assert (back.axes, back.steps, back.modality, back.range) == (stored.axes, stored.steps, "CT", None)
    mask = np.random.default_rng(1).integers(0, 3, (9, 33, 7))
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), LIMIT), mask != 0)


_WHOLE = volume((37, 150, 141))
_STORED = encode(_WHOLE)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*(st.tuples(st.integers(0, side), st.integers(0, side)) for side in _WHOLE.shape)))
def test_any_part_is_the_part_of_the_whole(ends) -> None:
    part = tuple(slice(min(pair), max(pair)) for pair in ends)
    np.testing.assert_array_equal(decode(_STORED, LIMIT).voxels[part], _WHOLE.voxels[part])


def test_what_was_written_with_the_delta_filter_is_refused() -> None:
    filters = {"filters": [blosc2.Filter.DELTA, blosc2.Filter.BITSHUFFLE], "filters_meta": [0, 0]}
    with pytest.raises(ImageError, match="not readable in parts"):
        decode(packed(volume((16, 64, 64)).voxels, **filters), LIMIT)


@pytest.mark.parametrize("opened", [lambda data: decode(data, LIMIT).voxels, lambda data: [decode_mask(data, LIMIT)]])
def test_a_damaged_part_is_an_image_error_where_it_is_decoded(opened) -> None:
    """blosc2 raises a RuntimeError, of which the loader knows nothing: the run would end at one damaged volume."""
    good = encode(volume())
    start, end = len(good) // 4, len(good) // 4 * 3
    bad = good[:start] + bytes(255 - value for value in good[start:end]) + good[end:]
    with pytest.raises(ImageError, match=f"a damaged volume of {len(bad)} bytes"):
        opened(bad)[:]


def test_foreign_and_damaged_bytes_are_refused() -> None:
    good = encode(volume())
    for data in (b"", b"nothing", good[:40], good[: len(good) // 2], good[:-30]):
        with pytest.raises(ImageError):
            decode(data, LIMIT).voxels[:]
    with pytest.raises(ImageError, match="without its place"):
        decode(packed(volume((8, 32, 32)).voxels, meta=False), LIMIT)
    for foreign in (np.zeros((8, 32, 32)), np.zeros((8, 32, 32), np.complex64), np.zeros((4, 8, 32, 32), np.int16)[0]):
        if foreign.dtype != np.int16:
            with pytest.raises(ImageError, match="expected a volume"):
                decode(packed(foreign), LIMIT)
    with pytest.raises(ImageError, match="limit of 1000"):
        decode(good, 1000)
