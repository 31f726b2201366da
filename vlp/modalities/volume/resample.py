"""Bring an axis of a volume to another spacing: the mean of what a voxel covers where it shrinks, linear where it grows.

Pixel i covers [i, i + 1): input = scale * source + offset, as `Geometry` has it. A plain linear interpolation of an axis
that shrinks leaves out voxels: white noise keeps .993 of its standard deviation from 1 mm to 3 mm, by the mean .195.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import Geometry

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@lru_cache(maxsize=1024)
def weights(source: int, size: int, scale: float, offset: float) -> tuple[csr_matrix, int, int]:
    """Return the shares of source voxels in each of `size` voxels of the input, float32 [size, stop - start], start, stop.

    Rows sum to 1, or are empty where the voxel's centre lies beyond the source.
    """
    from scipy.sparse import csr_matrix

    centre = (np.arange(size) + 0.5 - offset) / scale
    inside = (centre >= -1e-9) & (centre <= source + 1e-9)
    if scale < 1:
        low = np.clip(centre - 0.5 / scale, 0, source)
        high = np.clip(centre + 0.5 / scale, 0, source)
        first = np.floor(low + 1e-9).astype(np.int64)[:, None] + np.arange(int(np.ceil(1 / scale)) + 1)
        shares = np.clip(np.minimum(high[:, None], first + 1) - np.maximum(low[:, None], first), 0, None)
    else:
        place = np.clip(centre - 0.5, 0, source - 1)
        floor = np.minimum(np.floor(place + 1e-9), max(source - 2, 0))
        first = floor.astype(np.int64)[:, None] + np.arange(2)
        shares = np.stack([1 - (place - floor), place - floor], 1)
    shares = np.where(inside[:, None] & (first < source), shares, 0)
    total = shares.sum(1, keepdims=True)
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    kept = shares > 1e-7
    if not kept.any():
        return csr_matrix((size, 0), dtype=np.float32), 0, 0
    start, stop = int(first[kept].min()), int(first[kept].max()) + 1
    rows = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return (
        csr_matrix((shares[kept].astype(np.float32), first[kept] - start, rows), shape=(size, stop - start)),
        start,
        stop,
    )


def resample(voxels: Any, geometry: Geometry, fill: float) -> np.ndarray:
    """Return voxels [D, H, W] (anything that slices to an array) on the input that `geometry` states, float32.

    Only the part that the input shows is read. `fill` is what lies beyond the source. The geometry's `turn` is not applied.
    """
    axes = [
        weights(*axis) for axis in zip(geometry.source, geometry.input, geometry.scale, geometry.offset, strict=True)
    ]
    if any(start == stop for _, start, stop in axes):
        return np.full(geometry.input, fill, np.float32)
    found = np.asarray(voxels[tuple(slice(start, stop) for _, start, stop in axes)], np.float32)
    for axis in sorted(range(3), key=lambda axis: geometry.scale[axis]):  # what shrinks most first: less is left to do
        matrix = axes[axis][0]
        moved = np.ascontiguousarray(np.moveaxis(found, axis, 0))
        found = np.moveaxis((matrix @ moved.reshape(len(moved), -1)).reshape(-1, *moved.shape[1:]), 0, axis)
    result = np.ascontiguousarray(found)
    for axis, (matrix, _, _) in enumerate(axes):
        result[(slice(None),) * axis + (np.diff(matrix.indptr) == 0,)] = fill
    return result
