"""Stored values to Hounsfield units as int16, and the check that they are these: air is near -1000.

Rescaled once too often and not at all are the commonest errors of published CT preparations; neither is repaired here, both
are refused. The values of an MR have no unit: their range is what a processor scales them by.
"""

from __future__ import annotations

import numpy as np

from ..image.errors import ImageError
from .spec import AIR

LOWEST = -1100
"""In HU: below what a scanner gives, noise included; what lies below is padding, or no HU."""
NO_AIR = f"no voxel in {LOWEST}..-850 HU: nothing shows that these are Hounsfield units"
"""The step that stands where the check had nothing to look at, as in a crop inside the body."""

_SIGNED = np.iinfo(np.int16)
_OFFSET = -int(_SIGNED.min)


def to_int16(values: np.ndarray, scale: tuple[float, float] = (1.0, 0.0)) -> np.ndarray:
    """Return slope * values + intercept, rounded, as int16 in C order, for an array [D, H, W]; raises ImageError."""
    if values.dtype == np.int16 and scale == (1.0, 0.0):
        return np.array(values, order="C")
    found = np.empty(values.shape, np.int16)
    low, high = np.inf, -np.inf
    for index, plane in enumerate(values):
        scaled = _scaled(plane, scale)
        _check_finite(scaled, index)
        low, high = min(low, float(scaled.min())), max(high, float(scaled.max()))
        if np.rint(low) < _SIGNED.min or np.rint(high) > _SIGNED.max:
            continue  # what is copied would be other numbers; the loop goes on for the range that the message tells
        found[index] = scaled if scaled.dtype.kind in "iu" else np.rint(scaled)
    if np.rint(low) < _SIGNED.min or np.rint(high) > _SIGNED.max:
        raise ImageError(
            f"values from {low:g} to {high:g} after slope {scale[0]:g}, intercept {scale[1]:g}: Hounsfield units lie within "
            f"{_SIGNED.min}..{_SIGNED.max}; is the rescale the right one?",
            "not_hounsfield",
        )
    return found


def check_air(voxels: np.ndarray) -> tuple[str, ...]:
    """Replace padding in int16 voxels by air, in place, and return the steps; raises ImageError for what is no HU."""
    steps: tuple[str, ...] = ()
    counts = histogram(voxels)
    below, kept = counts[: LOWEST + _OFFSET], voxels.size
    if below.any():
        padding = int(below.argmax()) - _OFFSET
        count = int(below.max())
        for plane in voxels:
            plane[plane == padding] = int(AIR)
        steps = (f"padding {padding} to {AIR:g}: {count} voxels",)
        counts[int(AIR) + _OFFSET] += count
        below[padding + _OFFSET], kept = 0, kept - count
    share, tissue = below.sum() / voxels.size, counts[-200 + _OFFSET :].sum()
    found = ""
    if share > 0.01:
        found = f"{share:.0%} of the voxels lie below {LOWEST} HU"
    elif steps and tissue <= 0.01 * kept:  # air of one value, moved, looks like padding; then the body is where air was
        found = f"beside padding of {padding} hardly a voxel lies above -200 HU"
    if found:
        raise ImageError(
            f"{found} ({_spread(counts)}): rescaled twice? The files of CT-RATE v2 are in HU already: take version v2, or "
            "leave out the slope and intercept of the table",
            "rescaled_twice",
        )
    first = _percentile(counts, 0.01)
    if first > -200:
        raise ImageError(
            f"the 1st percentile is {first} HU ({_spread(counts)}), air is near -1000: not rescaled? Give the slope and "
            "intercept of the table as the option `rescale`",
            "not_rescaled",
        )
    return steps if counts[LOWEST + _OFFSET : -850 + _OFFSET + 1].any() else (*steps, NO_AIR)


def unscaled(values: np.ndarray, scale: tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
    """Return values [D, H, W] that have no unit, int16 where that is exact and else float32, and their range.

    The range: the .5 and 99.5 percentiles of the values above zero, (0, 1) where none is. Raises ImageError.
    """
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and values.dtype != np.uint16
    if values.dtype == np.uint16:
        small = int(values.max()) <= _SIGNED.max
    found = np.empty(values.shape, np.int16 if small and scale == (1.0, 0.0) else np.float32)
    for index, plane in enumerate(values):
        scaled = _scaled(plane, scale)
        _check_finite(scaled, index)
        with np.errstate(over="ignore"):
            found[index] = scaled
    if not np.isfinite(found).all():
        raise ImageError("values beyond what 32-bit floats hold", "bad_voxels")
    positive = found[found > 0]
    if positive.size == 0:
        return found, (0.0, 1.0)
    low, high = np.percentile(positive, (0.5, 99.5))
    return found, (float(low), float(high))


def _scaled(plane: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    slope, intercept = scale
    if plane.dtype.kind in "iu" and plane.dtype.itemsize <= 4 and slope == 1 and intercept == int(intercept):
        return plane.astype(np.int64) + int(intercept)
    with np.errstate(over="ignore", invalid="ignore"):
        return plane.astype(np.float64) * slope + intercept


def _check_finite(plane: np.ndarray, index: int) -> None:
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        row, column = np.argwhere(~np.isfinite(plane))[0]
        count = int((~np.isfinite(plane)).sum())
        raise ImageError(
            f"{count} voxels of plane {index} (z, from the feet) are {plane[row, column]}, the first in row {row}, column "
            f"{column}: expected numbers; write the file anew with -1024 there if they lie beyond the field of view",
            "bad_voxels",
        )


def histogram(voxels: np.ndarray) -> np.ndarray:
    """Return how many int16 voxels have each value, the lowest first, [65536]."""
    counts = np.zeros(2 * _OFFSET, np.int64)
    for plane in voxels:
        counts += np.bincount(plane.ravel().view(np.uint16) ^ np.uint16(_OFFSET), minlength=len(counts))
    return counts


def _percentile(counts: np.ndarray, share: float) -> int:
    return int(np.searchsorted(np.cumsum(counts), max(1, share * counts.sum()))) - _OFFSET


def _spread(counts: np.ndarray) -> str:
    found = [_percentile(counts, share) for share in (0.01, 0.5, 0.99)]
    return "percentiles 1, 50 and 99: {}, {}, {}".format(*found)
