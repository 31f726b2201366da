"""A phrase with its regions, and the settings of a grounding."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from vlp.core.config import config

from ...maps.phrase_maps import Source
from ...metrics.grounding import THRESHOLDS
from ..controls import Rectangle


@config
class Settings:
    """`limit`: the first images with boxes. `sigma`: smoothing on the patch grid, in cells. `thresholds` of mIoU are of the
    raw map; `cut` of Dice and of the detected box is of the map scaled to [0, 1], fixed, not tuned on what is scored.
    `prior_split`: where the text prior's mean boxes come from; without such a split, from the other patients of the scored
    one. `bare`: finding -> phrase without a place, scored against all boxes of the finding. `source`: `patches`, or a
    saliency method for models without aligned patches, on a `layer` of the image tower (by default the last one with a
    grid).
    """

    limit: PositiveInt | None = None
    sigma: float = 0.0
    thresholds: tuple[float, ...] = THRESHOLDS
    cut: float = 0.5
    prior_split: str | None = "train"
    bare: dict[str, str] | None = None
    source: Source = "patches"
    layer: str | None = None


@dataclass(frozen=True)
class Query:
    """A phrase asked of an image: `place` its row among the images, and the boxes it speaks of.

    `label` tells findings apart: the label of its boxes, else the phrase itself, which may be a sentence of a report.
    """

    place: int
    phrase: str
    label: str
    boxes: tuple[Rectangle, ...]
    bare: bool = False
    labelled: bool = True

    @property
    def category(self) -> str:
        """Return the finding as outputs name it, without a word of a report."""
        return self.label if self.labelled else UNLABELLED


UNLABELLED = "no label"
"""Stands for the finding of a box without a label: its phrase may be a sentence of a report."""
