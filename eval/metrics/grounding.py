"""Whether a map points at the finding: CNR, mIoU over thresholds, pointing game, pixel AUROC and AP, Dice, box overlaps.

A map is [H, W] on the original image, or [D, H, W] on a volume; NaN marks pixels that the model never saw, and they are
left out on both sides. The truth is a boolean mask of that shape, the union of the phrase's boxes. A box is its low corner,
then its high corner, each with x first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rectangle = tuple[float, ...]
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def box_mask(boxes: Sequence[Rectangle], *shape: int) -> Mask:
    """Return the pixels of `shape` whose centres lie in any of the boxes; edges as in `vlp.sample.Box`."""
    mask = np.zeros(shape, dtype=bool)
    for box in boxes:
        starts = [max(0, int(np.ceil(edge - 0.5))) for edge, _ in spans(box)]
        ends = [int(np.ceil(edge - 0.5)) for _, edge in spans(box)]
        mask[tuple(slice(start, max(start, end)) for start, end in zip(starts, ends, strict=True))] = True
    return mask


def spans(box: Rectangle) -> list[tuple[float, float]]:
    """Return where a box begins and ends along each axis of the array: y and x, or z, y and x."""
    half = len(box) // 2
    return list(zip(box[half - 1 :: -1], box[: half - 1 : -1], strict=True))


def has_content(box: Rectangle) -> bool:
    """Return whether a box has an area, of a volume a content."""
    return all(high > low for low, high in spans(box))


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


def distance_to_boxes(heat: ArrayLike, boxes: Sequence[Rectangle], spacing: Sequence[float]) -> float | None:
    """Return how far the centre of the map's first maximum is from the nearest of the boxes, in millimetres; 0 inside.

    `spacing` along the axes of the map. None where the map has no seen voxel, or there is no box.
    """
    values = np.asarray(heat, dtype=np.float64)
    if not boxes or not np.isfinite(values).any():
        return None
    point = np.add(np.unravel_index(int(np.nanargmax(values)), values.shape), 0.5)
    low, high = (np.array([[span[side] for span in spans(box)] for box in boxes]) for side in (0, 1))
    away = np.maximum(np.maximum(low - point, point - high), 0) * np.asarray(spacing)
    return float(np.sqrt((away**2).sum(1)).min())


def depth_error(heat: ArrayLike, boxes: Sequence[Rectangle], spacing: float) -> tuple[float, float] | None:
    """Return how far the slice of the map's first maximum is from the middle of the nearest box, and a random seen slice.

    In millimetres along the first axis of a volume, slices `spacing` apart. None where the map has no seen voxel.
    """
    values = np.asarray(heat, dtype=np.float64)
    seen = np.isfinite(values)
    if not boxes or not seen.any():
        return None
    middles = np.array([sum(spans(box)[0]) / 2 for box in boxes])
    slices = np.flatnonzero(seen.any(axis=tuple(range(1, values.ndim)))) + 0.5
    away = np.abs(slices[:, None] - middles).min(1) * spacing
    found = np.unravel_index(int(np.nanargmax(values)), values.shape)[0] + 0.5
    return float(np.abs(found - middles).min() * spacing), float(away.mean())


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
    """Return IoU = intersection / union and IoBB = intersection / area (content) of the detection of two boxes.

    Raises ValueError for a box without area.
    """
    for box in (detected, truth):
        if not has_content(box):
            raise ValueError(f"a box without area: {box}")
    here, there = spans(detected)[::-1], spans(truth)[::-1]
    areas = [math.prod(high - low for low, high in box) for box in (here, there)]
    edges = [min(own[1], other[1]) - max(own[0], other[0]) for own, other in zip(here, there, strict=True)]
    shared = math.prod(max(0.0, edge) for edge in edges)
    return shared / (areas[0] + areas[1] - shared), shared / areas[0]


def box_of_map(heat: ArrayLike, threshold: float) -> Rectangle | None:
    """Return the bounding box of the connected part of {map > t} that holds the maximum; None where nothing passes."""
    from scipy.ndimage import label

    values = np.asarray(heat, dtype=np.float64)
    above = np.nan_to_num(values, nan=-np.inf) > threshold
    if not above.any():
        return None
    parts, _ = label(above)
    found = np.nonzero(parts == parts.flat[int(np.nanargmax(values))])[::-1]
    return (*(float(places.min()) for places in found), *(float(places.max() + 1) for places in found))


def best_overlap(detected: Rectangle, boxes: Sequence[Rectangle]) -> tuple[float, float] | None:
    """Return the largest IoU and the largest IoBB of a detected box with any of the boxes; None where none has an area."""
    known = [box_overlap(detected, box) for box in boxes if has_content(box)]
    return (max(iou for iou, _ in known), max(iobb for _, iobb in known)) if known else None
