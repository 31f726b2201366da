"""All scores of one phrase's map, of its controls' maps, and their means over phrases and over findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bootstrap import Resamples
from ...intervals import Part, of_mean
from ...maps.masks import scaled
from ...maps.phrase_maps import Map
from ...metrics import grounding
from ...results import macro_metric
from ..base import mean_metric
from ..controls import CONTROLS, Rectangle, control_of
from .query import Settings

Floats = NDArray[np.float64]
Scores = dict[str, float]
"""Scores of a phrase by name, NaN where one is undefined."""
NOTHING = float("nan")
DISTANCE, DEPTH = MILLIMETRES = ("distance_mm", "depth_error_mm")
"""How far a map's maximum is from the phrase's boxes, and its slice from their middle: of volumes, whose voxels have a size."""
RANDOM_SLICE = "depth_error_mm_random"
"""The error of a slice drawn at random; that of the middle one is the control `centre`."""
SCORES = ("pointing", "cnr", "miou", "pixel_auroc", "pixel_ap", "dice", "box_iou", "iobb", "cnr_absolute")
MACRO = ("pointing", "cnr", "cnr_absolute", "miou")
"""Scores that are published as means over findings of the means over their phrases."""
UNBOUNDED = ("cnr", "pointing_minus", *MILLIMETRES)
"""Scores that do not lie in [0, 1]."""
CHANCE = {"cnr": 0.0, "pixel_auroc": 0.5, "pointing_minus_shuffled": 0.0}
HITS = {"box_iou": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), "iobb": (0.1, 0.25, 0.5, 0.75, 0.9)}
"""Overlaps at which ChestX-ray8 counts a box as found: the share of phrases above each stands beside the mean."""


def names_of(is_volume: bool) -> list[str]:
    """Return the names of all scores of a phrase and of its controls."""
    own = (*SCORES, *MILLIMETRES) if is_volume else SCORES
    return [*own, *(f"{score}_{control}" for control in CONTROLS for score in own)]


def scores_of(
    heat: Map | None,
    truth: NDArray[np.bool_],
    boxes: Sequence[Rectangle],
    settings: Settings,
    spacing: Sequence[float] = (),
    control: str = "",
) -> Scores:
    """Return all scores of a map, or of a control's (`control` ends their names); `spacing` in millimetres of a volume.

    The box around the part of the map that holds its maximum is held against the nearest of the phrase's boxes.
    """
    values = dict.fromkeys((*SCORES, *MILLIMETRES, RANDOM_SLICE) if spacing else SCORES, NOTHING)
    seen = np.isfinite(heat) if heat is not None else np.zeros_like(truth)
    if heat is not None and truth[seen].any():
        cnr, overlap = grounding.contrast_to_noise(heat, truth), grounding.mean_iou(heat, truth, settings.thresholds)
        ranking = grounding.pixel_ranking(heat, truth)
        field = np.where(seen, scaled(heat), np.nan)
        box = grounding.box_of_map(field, settings.cut)
        best = grounding.best_overlap(box, inside(boxes, truth.shape)) if box else (0.0, 0.0)
        found = {
            "pointing": grounding.pointing_hit(heat, truth),
            "cnr": cnr,
            "cnr_absolute": None if cnr is None else abs(cnr),
            "miou": overlap and overlap[1],
            "dice": grounding.dice_at(field, truth, settings.cut),
        }
        if spacing:
            found[DISTANCE] = grounding.distance_to_boxes(heat, boxes, spacing)
            found |= dict(
                zip((DEPTH, RANDOM_SLICE), grounding.depth_error(heat, boxes, spacing[0]) or (), strict=False)
            )
        found |= dict(zip(("pixel_auroc", "pixel_ap"), ranking or (), strict=False))
        found |= dict(zip(("box_iou", "iobb"), best or (), strict=False))
        values |= {name: float(value) for name, value in found.items() if value is not None}
    return {f"{name}_{control}" if control else name: value for name, value in values.items()}


def inside(boxes: Sequence[Rectangle], size: tuple[int, ...]) -> list[Rectangle]:
    """Return the parts of boxes that lie on an image of that size."""
    ends, half = [float(side) for side in reversed(size)], len(size)
    return [
        (
            *(max(0.0, edge) for edge in box[:half]),
            *(min(end, edge) for end, edge in zip(ends, box[half:], strict=True)),
        )
        for box in boxes
    ]


def summary(
    values: Floats,
    drawn: Resamples,
    name: str,
    primary: bool = False,
    areas: Floats | None = None,
    prefix: str = "",
    random: Floats | None = None,
) -> dict[str, Any]:
    """Return the mean over phrases with its interval; phrases for which it is undefined are counted.

    `areas`: the boxes' shares of the image; `random`: the score of an answer drawn at random.
    """
    known = np.isfinite(values)
    extra: dict[str, Any] = control_of(f"{prefix}{name}", (*SCORES, *MILLIMETRES))
    if name.startswith(MILLIMETRES):
        extra["higher_is_better"] = False
    if not known.all():
        extra["undefined"] = int((~known).sum())
    if name in HITS and known.any():
        extra["share_above"] = {f"{overlap:g}": float((values[known] > overlap).mean()) for overlap in HITS[name]}
    chance = CHANCE.get(name)
    if random is not None and np.isfinite(random).any():
        chance = float(np.nanmean(random))
    if name in ("pointing", "pixel_ap") and areas is not None:
        chance = float(areas.mean())
    reason, bounded = "undefined for every phrase", not name.startswith(UNBOUNDED)
    return mean_metric(values, drawn, bounded=bounded, chance=chance, primary=primary, reason=reason, **extra)


def macro(values: Floats, findings: Sequence[str], drawn: Resamples, name: str, areas: Floats) -> dict[str, Any]:
    """Return the mean over findings of the means over their phrases (BioViL's protocol), with its interval.

    `values`, `findings` and `areas` (the boxes' shares of the image) are of phrases [n]; `drawn` are resamples of patients,
    and with them the phrases of all findings together. A finding for which no phrase is defined is left out and named.
    """
    parts: list[Part] = []
    shares, undefined = [], []
    for finding in sorted(set(findings)):
        inside = np.array([label == finding for label in findings])
        own = np.where(inside, values, NOTHING)
        if not np.isfinite(own).any():
            undefined.append(finding)
            continue
        bounds = of_mean(own, drawn, bounded=not name.startswith(UNBOUNDED))
        parts.append(Part(float(np.nanmean(own)), drawn.means(own), bounds))
        shares.append(float(areas[inside].mean()))
    chance = float(np.mean(shares)) if name == "pointing" and shares else CHANCE.get(name)
    reason = "undefined for every phrase"
    return macro_metric(parts, chance=chance, reason=reason, n_classes=len(parts), undefined=undefined)
