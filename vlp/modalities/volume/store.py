"""A volume as a member of a shard: one blosc2 array of which parts are read without the rest, with its affine.

zstd with bit-shuffle; never blosc2's delta filter, whose partial reads return wrong values (4.14.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..image.errors import ImageError
from .volume import FileAxes, Volume

ENDING = "b2nd"
CHUNKS, BLOCKS = (16, 128, 128), (4, 64, 64)
LEVEL = 1
"""Of zstd."""
MAX_VOXELS = 1 << 30
"""Largest volume that is decoded when nothing else is said: four times the longest CT of 512 x 512."""
META = "vlp"
RECORD = ("affine", "modality", "range", "order", "flipped", "steps")
"""What is kept beside the voxels."""
_TYPES = ("int16", "float32", "uint8")


def encode(volume: Volume) -> bytes:
    """Return a volume's bytes."""
    voxels = np.ascontiguousarray(volume.voxels[:])
    record = {
        "affine": np.asarray(volume.affine, np.float64).tolist(),
        "modality": volume.modality,
        "range": None if volume.range is None else list(volume.range),
        "order": list(volume.axes.order),
        "flipped": list(volume.axes.flipped),
        "steps": list(volume.steps),
    }
    return _pack(voxels, record)


def encode_mask(mask: np.ndarray) -> bytes:
    """Return the bytes of a mask [D, H, W], non-zero = inside."""
    return _pack(np.ascontiguousarray(mask, np.uint8), {})


def _pack(array: np.ndarray, record: dict[str, Any]) -> bytes:
    import blosc2

    chunks = tuple(min(most, side) for most, side in zip(CHUNKS, array.shape, strict=True))
    blocks = tuple(min(most, side) for most, side in zip(BLOCKS, chunks, strict=True))
    parameters = blosc2.CParams(
        codec=blosc2.Codec.ZSTD, clevel=LEVEL, filters=[blosc2.Filter.BITSHUFFLE], filters_meta=[0], nthreads=1
    )
    packed = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=parameters)
    if record:
        packed.schunk.vlmeta[META] = record
    data: bytes = packed.to_cframe()
    return data


def decode(data: bytes, max_voxels: int = MAX_VOXELS) -> Volume:
    """Open a volume's bytes; its voxels are decoded where they are sliced. Both raise ImageError."""
    voxels = _Voxels(_open(data, max_voxels), len(data))
    try:
        record = voxels.array.schunk.vlmeta[META]
        affine = np.asarray(record["affine"], np.float64).reshape(4, 4)
        low, high = record["range"] or (None, None)
        axes = FileAxes(_three(record["order"], int), _three(record["flipped"], bool))
        if sorted(axes.order) != [0, 1, 2] or not np.isfinite(affine).all():
            raise ValueError("no axes")
        return Volume(
            voxels,
            affine,
            str(record["modality"]),
            None if low is None or high is None else (float(low), float(high)),
            axes,
            tuple(map(str, record["steps"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"a stored volume without its place in the patient ({type(error).__name__})") from None


def decode_mask(data: bytes, max_voxels: int = MAX_VOXELS) -> np.ndarray:
    """Return where a stored mask is not zero, bool [D, H, W]; raises ImageError."""
    inside: np.ndarray = _Voxels(_open(data, max_voxels), len(data))[:] != 0
    return inside


def is_volume(data: Any) -> bool:
    """Return whether bytes are a blosc2 array's, by how they begin."""
    return isinstance(data, bytes) and data[2:9] == b"b2frame"


def check(data: bytes, shape: tuple[int, int, int]) -> None:
    """Decode a stored volume or mask whole; raises ImageError for a damaged one, and for one of another shape."""
    voxels = _Voxels(_open(data, MAX_VOXELS), len(data))
    if voxels.shape != tuple(shape):
        raise ImageError(f"expected {' x '.join(map(str, shape))} voxels, found {' x '.join(map(str, voxels.shape))}")
    voxels[:]


class _Voxels:
    """The array of a stored volume: a part is decoded when it is sliced, and a damaged one raises ImageError."""

    def __init__(self, array: Any, length: int) -> None:
        self.array, self.length = array, length
        self.shape, self.dtype, self.size = tuple(array.shape), array.dtype, array.size

    def __getitem__(self, part: Any) -> np.ndarray:
        try:
            return np.asarray(self.array[part])
        except (RuntimeError, ValueError) as error:
            raise ImageError(f"a damaged volume of {self.length} bytes ({type(error).__name__})") from None


def _three(values: Any, kind: Any) -> Any:
    first, second, third = values
    return kind(first), kind(second), kind(third)


def _open(data: bytes, max_voxels: int) -> Any:
    import blosc2

    try:
        array = blosc2.ndarray_from_cframe(data, deserialize="safe")  # its metadata may say nothing but values
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"a damaged volume of {len(data)} bytes ({type(error).__name__})") from None
    if array.ndim != 3 or str(array.dtype) not in _TYPES:
        raise ImageError(f"expected a volume [D, H, W] of {', '.join(_TYPES)}, found {list(array.shape)} {array.dtype}")
    filters = {filter_ for filter_ in array.cparams.filters if filter_ != blosc2.Filter.NOFILTER}
    if (
        not filters <= {blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE}
        or array.cparams.codec not in tuple(blosc2.Codec)[:5]
    ):
        raise ImageError(
            f"a volume written with {array.cparams.codec} and {array.cparams.filters}, which is not readable in parts "
            "(blosc2's delta filter) or not known: write it with zstd and bit-shuffle"
        )
    if array.size > max_voxels:
        raise ImageError(
            f"a volume of {' x '.join(map(str, array.shape))} voxels, more than the limit of {max_voxels} (max_voxels)"
        )
    return array
