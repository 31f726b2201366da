"""How well masks agree: Dice, IoU, and surface measures (NSD, HD95) of 2-D masks with lengths, not pixel counts.

The surface follows DeepMind's surface-distance definition: the contour runs between pixel centres and each 2 x 2
neighbourhood contributes the length of contour that crosses it. It is done in two dimensions; a dummy third axis (as in
MedCLIP-SAMv2's code) counts the flat faces as matched surface and inflates the score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def _masks(predicted: ArrayLike, truth: ArrayLike) -> tuple[Mask, Mask]:
    first, second = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"masks must be [H, W] of one shape, found {first.shape} and {second.shape}")
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


def _surface_distances(predicted: Mask, truth: Mask) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return, for each of the two masks, how far each piece of its contour is from the other's, and its length."""
    from scipy.spatial import KDTree

    contours = [_contour(mask) for mask in _cropped(predicted, truth)]
    first, second = (np.argwhere(contour) for contour in contours)
    there, back = (contour[contour > 0] for contour in contours)
    return (KDTree(second).query(first)[0], there), (KDTree(first).query(second)[0], back)


def _cropped(first: Mask, second: Mask) -> tuple[Mask, Mask]:
    """Cut both masks to the smallest rectangle that holds the two: outside of it there is no contour to measure."""
    either = first | second
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    if not len(rows):
        return first, second
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return first[box], second[box]


def surface_dice(predicted: ArrayLike, truth: ArrayLike, tolerance: float) -> float | None:
    """Return NSD: the share of both contours' length within `tolerance` (pixels) of the other. None where both are empty."""
    first, second = _masks(predicted, truth)
    (there, length_there), (back, length_back) = _surface_distances(first, second)
    total = float(length_there.sum() + length_back.sum())
    if total == 0:
        return None
    return float((length_there[there <= tolerance].sum() + length_back[back <= tolerance].sum()) / total)


def hausdorff(predicted: ArrayLike, truth: ArrayLike, percentile: float = 95) -> float | None:
    """Return the larger of the two directed distances at a percentile of contour length; None where a mask is empty."""
    first, second = _masks(predicted, truth)
    if not first.any() or not second.any():
        return None
    worst = 0.0
    for distances, lengths in _surface_distances(first, second):
        order = np.argsort(distances)
        passed = np.cumsum(lengths[order]) / lengths.sum()
        at = min(int(np.searchsorted(passed, percentile / 100)), len(distances) - 1)
        worst = max(worst, float(distances[order][at]))
    return worst
