"""How the slices of a stack lie: their order along the normal, gaps, and stacks that lean. Pure geometry, in millimetres.

A stack is [n, rows, columns]; an orientation is six numbers: the direction of a row, then that of a column.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ...image.errors import ImageError
from ..options import VolumeOptions

SAME = 1e-3
"""Positions that are less apart are one."""
UNEVEN = 0.05
"""The share of the median gap by which gaps may differ."""
ASIDE = 0.05
"""What a slice may lie aside of the one before, in its plane: more is a stack that leans."""


def normal_of(orientation: np.ndarray) -> np.ndarray:
    """Return the unit normal of a plane: row direction x column direction."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def along_normal(positions: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Return how far positions [n, 3] lie along the normal: what slices are sorted by, whatever their numbers say."""
    return np.asarray(positions @ normal_of(orientation))


def aside(positions: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Return where positions [n, 3] lie in the plane of the first, [n, 2] along its rows and its columns."""
    return np.asarray((positions - positions[0]) @ np.stack([orientation[:3], orientation[3:]], 1))


def table_of(gaps: np.ndarray) -> str:
    """Return gaps as a table in one line, the commonest first: `4 x 2.5 mm, 1 x 5 mm`."""
    counts = Counter(f"{gap:.4g}" for gap in gaps).most_common(8)
    rest = len(gaps) - sum(count for _, count in counts)
    return ", ".join(f"{count} x {gap} mm" for gap, count in counts) + (f", {rest} of other lengths" if rest else "")


def even_places(along: np.ndarray, options: VolumeOptions) -> np.ndarray | None:
    """Return where slices belong that `options.gaps` asks for, None where they lie evenly; raises ImageError.

    `along` ascends, no place twice.
    """
    gaps = np.diff(along)
    median = float(np.median(gaps))
    if gaps.max() - gaps.min() <= UNEVEN * median:
        return None
    counts = np.rint(gaps / median)
    is_missing = bool((counts >= 1).all() and (np.abs(gaps / median - counts) <= UNEVEN).all())
    if options.gaps == "resample":
        count = int(np.floor((along[-1] - along[0]) / median + UNEVEN)) + 1
        return np.asarray(along[0] + median * np.arange(count))
    if not is_missing:
        raise ImageError(
            f"{len(along)} slices with gaps that are not uniform ({table_of(gaps)}): the option `gaps: resample` interpolates "
            f"them onto the median gap of {median:.4g} mm",
            "uneven_gaps",
        )
    if options.gaps == "refuse":
        first = int(np.argmax(counts > 1))
        raise ImageError(
            f"{int((counts - 1).sum())} slices are missing among {len(along)}, the first between {along[first]:.4g} and "
            f"{along[first + 1]:.4g} mm along the normal ({table_of(gaps)}): the option `gaps: fill` puts interpolated ones in "
            "their places",
            "missing_slices",
        )
    parts = [start + gap / count * np.arange(count) for start, gap, count in zip(along[:-1], gaps, counts, strict=True)]
    return np.concatenate([*parts, along[-1:]])


def interpolate(stack: np.ndarray, along: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the slices of a stack at other places along the normal, linear between the two beside each."""
    found = np.empty((len(places), *stack.shape[1:]), stack.dtype)
    for index, place in enumerate(places):
        below = min(max(int(np.searchsorted(along, place, "right")) - 1, 0), len(along) - 2)
        share = float(np.clip((place - along[below]) / (along[below + 1] - along[below]), 0, 1))
        found[index] = _as(stack.dtype, (1 - share) * stack[below].astype(np.float64) + share * stack[below + 1])
    return found


def check_upright(offsets: np.ndarray, along: np.ndarray, options: VolumeOptions) -> bool:
    """Return whether slices lie straight on each other; raises ImageError where they do not and may not be resampled.

    `offsets` [n, 2] in millimetres in the plane, `along` [n] along its normal, both in order.
    """
    step = np.linalg.norm(np.diff(offsets, axis=0), axis=1)
    gaps = np.diff(along)
    if step.max() <= ASIDE:
        return True
    if options.tilt == "refuse":
        degrees = float(np.degrees(np.arctan2(np.linalg.norm(offsets[-1] - offsets[0]), along[-1] - along[0])))
        raise ImageError(
            f"the stack leans by {degrees:.1f} degrees (gantry tilt, or a shear): each slice lies up to {step.max():.4g} mm "
            f"aside of the one before; gaps along the normal: {table_of(gaps)}. The option `tilt: resample` brings it onto a "
            "straight grid",
            "gantry_tilt",
        )
    return False


def upright_shape(stack: tuple[int, ...], offsets: np.ndarray, spacing: tuple[float, float]) -> tuple[int, ...]:
    """Return the shape of a leaning stack on a straight grid that holds all of it; `spacing` of rows, columns."""
    low, high = _reach(offsets, spacing)
    return (stack[0], *(int(side + most - least) for side, least, most in zip(stack[1:], low, high, strict=True)))


def straighten(
    stack: np.ndarray, offsets: np.ndarray, spacing: tuple[float, float], fill: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a leaning stack on a straight grid, and where its first pixel lies aside of the stack's first, [2] as `offsets`.

    Each slice is shifted in its plane, linear between pixels; `spacing` of rows, columns, `fill` beyond the slices.
    """
    low, _ = _reach(offsets, spacing)
    found = np.full(upright_shape(stack.shape, offsets, spacing), fill, stack.dtype)
    for plane, old, offset in zip(found, stack, offsets, strict=True):
        shift = offset[::-1] / np.asarray(spacing) - low  # of rows, columns, in pixels
        whole = np.floor(shift + 1e-6).astype(int)
        values = old.astype(np.float64)
        for axis, part in enumerate(shift - whole):
            values = _shifted(values, axis, float(np.clip(part, 0, 1)), fill)
        rows, columns = values.shape
        there = plane[whole[0] : whole[0] + rows, whole[1] : whole[1] + columns]
        there[...] = _as(stack.dtype, values[: there.shape[0], : there.shape[1]])
    return found, np.asarray(low[::-1] * np.asarray(spacing)[::-1])


def _reach(offsets: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return how far slices reach beyond the first at either end of rows, columns, in whole pixels."""
    pixels = offsets[:, ::-1] / np.asarray(spacing)
    return np.floor(pixels.min(0) + 1e-6).astype(int), np.ceil(pixels.max(0) - 1e-6).astype(int)


def _shifted(values: np.ndarray, axis: int, share: float, fill: float) -> np.ndarray:
    """Return values moved by a share of a pixel to the high end of an axis, one pixel longer."""
    if share < 1e-6:
        return values
    edge = [(0, 0), (0, 0)]
    edge[axis] = (1, 1)
    padded = np.pad(values, edge, constant_values=fill)
    low, high = (padded.take(range(start, padded.shape[axis] - 1 + start), axis) for start in (0, 1))
    return np.asarray((1 - share) * high + share * low)


def _as(kind: np.dtype, values: np.ndarray) -> np.ndarray:
    return (np.rint(values) if kind.kind in "iu" else values).astype(kind)
