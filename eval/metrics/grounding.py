"""Whether a map points at the finding: CNR, mIoU over thresholds, pointing game, pixel AUROC and AP, Dice, box overlaps.

A map is [H, W] on the original image; NaN marks pixels that the model never saw, and they are left out on both sides.
The truth is a boolean mask [H, W], the union of the phrase's boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rectangle = tuple[float, float, float, float]
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def box_mask(boxes: Sequence[Rectangle], height: int, width: int) -> Mask:
    """Return the pixels [H, W] whose centres lie in any of the boxes (x1, y1, x2, y2); edges as in `vlp.sample.Box`."""
    mask = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        left, top = max(0, int(np.ceil(x1 - 0.5))), max(0, int(np.ceil(y1 - 0.5)))
        right, bottom = max(left, int(np.ceil(x2 - 0.5))), max(top, int(np.ceil(y2 - 0.5)))
        mask[top:bottom, left:right] = True
    return mask


def _inside_outside(heat: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    values, mask = np.asarray(heat, dtype=np.float64), np.asarray(truth, dtype=bool)
    if values.shape != mask.shape:
        raise ValueError(f"map {values.shape} and truth {mask.shape} must have one shape")
    seen = np.isfinite(values)
    return values[mask & seen], values[~mask & seen]


def contrast_to_noise(heat: ArrayLike, truth: ArrayLike) -> float | None:
    """Return CNR = (mean inside - mean outside) / sqrt(var inside + var outside), population variances.

    Signed, so that a map that avoids the finding scores below zero; BioViL's own formula is the absolute value. None
    where a side is empty or both are constant.
    """
    inside, outside = _inside_outside(heat, truth)
    if not len(inside) or not len(outside):
        return None
    noise = float(inside.var() + outside.var())
    if noise <= 0:
        return None
    return float((inside.mean() - outside.mean()) / np.sqrt(noise))


def mean_iou(
    heat: ArrayLike, truth: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[list[float], float] | None:
    """Return IoU of {map > t} with the truth for each t, and their mean (BioViL's mIoU; the raw map, not rescaled).

    None where no pixel of the truth was seen.
    """
    inside, outside = _inside_outside(heat, truth)
    if not len(inside):
        return None
    values = [
        float((inside > threshold).sum() / (len(inside) + (outside > threshold).sum())) for threshold in thresholds
    ]
    return values, float(np.mean(values))


def pointing_hit(heat: ArrayLike, truth: ArrayLike) -> bool | None:
    """Return whether the map's first maximum (in reading order) lies in the truth.

    None where the map has no seen pixel or the truth is empty.
    """
    values, mask = np.asarray(heat, dtype=np.float64), np.asarray(truth, dtype=bool)
    if not mask.any() or not np.isfinite(values).any():
        return None
    return bool(mask.flat[int(np.nanargmax(values))])


def pixel_ranking(heat: ArrayLike, truth: ArrayLike) -> tuple[float, float] | None:
    """Return AUROC (ties half) and average precision of the map's pixels: no threshold to tune; None where a side is empty.

    By sorting each side alone, which for a radiograph of millions of pixels is many times faster than ranking all of them.
    """
    kind = np.float32 if np.asarray(heat).dtype == np.float32 else np.float64
    inside, outside = (np.sort(part.astype(kind)) for part in _inside_outside(heat, truth))
    if not len(inside) or not len(outside):
        return None
    under, upto = np.searchsorted(outside, inside, "left"), np.searchsorted(outside, inside, "right")
    area = (under.sum() + 0.5 * (upto - under).sum()) / (len(inside) * len(outside))
    hits = len(inside) - np.searchsorted(inside, inside, "left")  # inside pixels at or above each inside pixel
    alarms = len(outside) - under
    return float(area), float((hits / (hits + alarms)).mean())


def dice_at(heat: ArrayLike, truth: ArrayLike, threshold: float) -> float | None:
    """Return the Dice overlap of {map > t} with the truth; the threshold must come from other data than is scored."""
    inside, outside = _inside_outside(heat, truth)
    if not len(inside):
        return None
    hits = int((inside > threshold).sum())
    return float(2 * hits / (hits + (outside > threshold).sum() + len(inside)))


def box_overlap(detected: Rectangle, truth: Rectangle) -> tuple[float, float]:
    """Return IoU = intersection / union and IoBB = intersection / area of the detection of boxes (x1, y1, x2, y2).

    Raises ValueError for a box without area.
    """
    areas = [(x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0 for x1, y1, x2, y2 in (detected, truth)]
    if not all(areas):
        raise ValueError(f"a box without area: {detected if not areas[0] else truth}")
    width = min(detected[2], truth[2]) - max(detected[0], truth[0])
    height = min(detected[3], truth[3]) - max(detected[1], truth[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (areas[0] + areas[1] - shared), shared / areas[0]


def box_of_map(heat: ArrayLike, threshold: float) -> Rectangle | None:
    """Return the bounding box of the connected part of {map > t} that holds the maximum; None where nothing passes."""
    from scipy.ndimage import label

    values = np.asarray(heat, dtype=np.float64)
    above = np.nan_to_num(values, nan=-np.inf) > threshold
    if not above.any():
        return None
    parts, _ = label(above)
    row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
    rows, columns = np.nonzero(parts == parts[row, column])
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def best_overlap(detected: Rectangle, boxes: Sequence[Rectangle]) -> tuple[float, float] | None:
    """Return the largest IoU and the largest IoBB of a detected box with any of the boxes; None where none has an area."""
    known = [box_overlap(detected, box) for box in boxes if box[2] > box[0] and box[3] > box[1]]
    return (max(iou for iou, _ in known), max(iobb for _, iobb in known)) if known else None
