"""The settings of a classification, the truth of its classes, and which records make up a list of single findings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from vlp.core.config import config

from ...data.dataset import Data
from ...data.labels import label_of
from ...zero_shot.classifier import UNKNOWN
from ...zero_shot.scoring import Scoring
from ..base import Context


@config
class Settings:
    """The classes, the prompts, and the scoring rule.

    `classes` are label names, or values of `truth`: `modality`, `view` or a group column (labels where a record lacks
    it). The first of `prompts` gives the score; the others show how much the wording matters. `uncertain`: what a label
    of -1 counts as; `unstated`: what an absent one does (sets that list positives only need `negative`). `no_finding`
    names a class that stays out of the mean: with a positive/negative pair its denying prompt is a double negation.
    `per_class` (multi-class): at most so many images of each class, those with the smallest hashes of their keys.
    `subgroups`: group columns, `view` or `modality`; years of `age` are put together by twenty. `calibrate`: the split on
    which a temperature is fitted, shown beside the model's own. `aliases`: what publishers call a class in their own folders
    and tables.
    """

    classes: tuple[str, ...]
    kind: Literal["multilabel", "multiclass"] = "multilabel"
    truth: str = "labels"
    prompts: tuple[str, ...]
    scoring: Scoring = Scoring(rule="pair")
    uncertain: Literal["exclude", "positive", "negative"] = "exclude"
    unstated: Literal["exclude", "negative"] = "exclude"
    no_finding: str | None = None
    subgroups: tuple[str, ...] = ()
    min_group: PositiveInt = 20
    specificity: Annotated[float, Field(ge=0, le=1)] = 0.9
    per_class: PositiveInt | None = None
    calibrate: str | None = None
    aliases: dict[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        for name in ("classes", "prompts", "subgroups"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: a name is given twice")

    def names_of(self, label: str) -> tuple[str, ...]:
        """Return what a class may be called in the data."""
        return (label, *(self.aliases or {}).get(label, ()))


def truth_of(data: Data, indices: Sequence[int], settings: Settings) -> NDArray[np.int64]:
    """Return labels [n, C] of 1, 0 and -2 (unknown), uncertain ones as the settings say."""
    stands = {"exclude": UNKNOWN, "positive": 1, "negative": 0}[settings.uncertain]
    unstated = UNKNOWN if settings.unstated == "exclude" else 0
    table = np.full((len(indices), len(settings.classes)), UNKNOWN, dtype=np.int64)
    for row, index in enumerate(indices):
        record = data.records[index]
        for column, name in enumerate(settings.classes):
            stated = label_of(record, settings.names_of(name), settings.truth)
            value = unstated if stated is None else stated
            table[row, column] = stands if value == -1 else value
    return table


def labels_of(data: Data, indices: Sequence[int], classes: tuple[str, ...], truth: str) -> NDArray[np.int64]:
    """Return labels [n, C] of 1, 0 and -2 (unknown) under the settings that a classification has by default."""
    return truth_of(data, indices, Settings(classes=classes, truth=truth, prompts=()))


def uncertain(context: Context, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which usable records [n] leave one of the classes uncertain: they show no single one."""
    records = (context.data.records[index] for index in context.usable)
    return np.array([any(record.labels.get(name) == -1 for name in names) for record in records], dtype=bool)


def fewest(context: Context, classes: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return which usable records [n] are among the `count` of their class (-1: of none) with the smallest hashes."""
    codes = [hashlib.sha256(context.data.records[index].key.encode()).hexdigest() for index in context.usable]
    keep = np.zeros(len(classes), dtype=bool)
    for label in set(classes.tolist()) - {-1}:
        keep[sorted(np.flatnonzero(classes == label), key=lambda row: codes[row])[:count]] = True
    return keep
