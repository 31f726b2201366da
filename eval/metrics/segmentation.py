"""How well masks agree: Dice, IoU, and surface measures (NSD, HD95) of lengths and areas, not of pixel counts.

The surface follows DeepMind's surface-distance definition: it runs between pixel centres, and each neighbourhood of 2 x 2
pixels (2 x 2 x 2 voxels) contributes the length of contour (the area of surface) that crosses it. Masks [H, W] are done in two
dimensions; a dummy third axis (as in MedCLIP-SAMv2's code) counts the flat faces as matched surface and inflates the score.
Distances are in pixels, or in millimetres where a `spacing` along the axes is given.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlp.core.config import ConfigError

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Spacing = tuple[float, ...]


def _masks(predicted: ArrayLike, truth: ArrayLike) -> tuple[Mask, Mask]:
    first, second = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise ValueError(f"masks must be [H, W] or [D, H, W] of one shape, found {first.shape} and {second.shape}")
    return first, second


def dice(predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """Return 2|P and G| / (|P| + |G|); None where both are empty."""
    first, second = _masks(predicted, truth)
    total = int(first.sum() + second.sum())
    return float(2 * (first & second).sum() / total) if total else None


def iou(predicted: ArrayLike, truth: ArrayLike) -> float | None:
    """Return |P and G| / |P or G|; None where both are empty."""
    first, second = _masks(predicted, truth)
    total = int((first | second).sum())
    return float((first & second).sum() / total) if total else None


def _contour(mask: Mask) -> Floats:
    """Return the contour length [H + 1, W + 1] in each 2 x 2 neighbourhood of a mask padded by one pixel."""
    padded = np.pad(mask, 1).astype(np.uint8)
    code = 8 * padded[:-1, :-1] + 4 * padded[:-1, 1:] + 2 * padded[1:, :-1] + padded[1:, 1:]
    lengths = np.zeros(16)
    lengths[[1, 2, 4, 8, 7, 11, 13, 14]] = np.sqrt(0.5)  # one corner stands apart
    lengths[[3, 12, 5, 10]] = 1  # upper and lower, left and right half
    lengths[[6, 9]] = np.sqrt(2)  # opposite corners
    result: Floats = lengths[code]
    return result


@lru_cache(maxsize=32)
def _areas(spacing: Spacing) -> Floats:
    """Return the area of surface [256] in each 2 x 2 x 2 neighbourhood: surface-distance's table, which MONAI has."""
    try:
        from monai.metrics.utils import create_table_neighbour_code_to_surface_area as table
    except ImportError:
        raise ConfigError("NSD and HD95 of volumes need MONAI: install vlp's extra `volume`") from None
    return np.asarray(table(spacing)[0].cpu().numpy(), np.float64)


def _surface(mask: Mask, spacing: Spacing) -> Floats:
    """Return the area [D + 1, H + 1, W + 1] in each 2 x 2 x 2 neighbourhood of a mask padded by one voxel."""
    padded = np.pad(mask, 1).astype(np.uint8)
    code = np.zeros([side - 1 for side in padded.shape], np.uint8)
    for corner in product((0, 1), repeat=3):  # the first corner is the highest bit
        code = 2 * code + padded[tuple(slice(at, at + side) for at, side in zip(corner, code.shape, strict=True))]
    return np.asarray(_areas(spacing)[code])


def _surface_distances(
    predicted: Mask, truth: Mask, spacing: Spacing | None
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return, for each of the two masks, how far each piece of its surface is from the other's, and its size."""
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import KDTree

    steps = spacing or (1.0,) * truth.ndim
    masks = _cropped(predicted, truth)
    if truth.ndim == 3:
        here, other = (_surface(mask, steps) for mask in masks)
        to_here, to_other = (
            distance_transform_edt(area == 0, sampling=steps) if area.any() else np.full(area.shape, np.inf)
            for area in (here, other)
        )
        return (to_other[here > 0], here[here > 0]), (to_here[other > 0], other[other > 0])
    contours = [_contour(mask) for mask in masks]
    first, second = (np.argwhere(contour) for contour in contours)
    there, back = (contour[contour > 0] for contour in contours)
    return (KDTree(second).query(first)[0], there), (KDTree(first).query(second)[0], back)


def _cropped(first: Mask, second: Mask) -> tuple[Mask, Mask]:
    """Cut both masks to the smallest box that holds the two: outside of it there is no surface to measure."""
    found = np.nonzero(first | second)
    if not len(found[0]):
        return first, second
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in found)
    return first[box], second[box]


def surface_dice(
    predicted: ArrayLike, truth: ArrayLike, tolerance: float, spacing: Spacing | None = None
) -> float | None:
    """Return NSD: the share of both surfaces within `tolerance` of the other. None where both are empty.

    `tolerance` is in pixels, or in millimetres where a `spacing` is given: of masks [D, H, W].
    """
    first, second = _masks(predicted, truth)
    (there, size_there), (back, size_back) = _surface_distances(first, second, spacing)
    total = float(size_there.sum() + size_back.sum())
    if total == 0:
        return None
    return float((size_there[there <= tolerance].sum() + size_back[back <= tolerance].sum()) / total)


def hausdorff(
    predicted: ArrayLike, truth: ArrayLike, percentile: float = 95, spacing: Spacing | None = None
) -> float | None:
    """Return the larger of the two directed distances at a percentile of the surface; None where a mask is empty."""
    first, second = _masks(predicted, truth)
    if not first.any() or not second.any():
        return None
    worst = 0.0
    for distances, sizes in _surface_distances(first, second, spacing):
        order = np.argsort(distances)
        passed = np.cumsum(sizes[order]) / sizes.sum()
        at = min(int(np.searchsorted(passed, percentile / 100)), len(distances) - 1)
        worst = max(worst, float(distances[order][at]))
    return worst
