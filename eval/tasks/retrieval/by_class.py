"""Search of images by images of their class or by its prompts, and of prompts by images: precision at k, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from vlp.core.config import ConfigError, config, to_tree

from ...data.checks import check_labels
from ...data.dataset import Data, Findings
from ...data.spec import DataError
from ...embeddings.search import blocks
from ...intervals import of_draws, of_mean
from ...metrics.arithmetic import codes, ratio, unit
from ...metrics.retrieval import average_precisions, precision_at
from ...results import metric
from ...zero_shot import prompts as prompt_files
from ..base import Context, Outcome, Plan, Task, families, require_any, words_of
from ..classification.labels import labels_of


@config
class Settings:
    """Search of images by images, of images by each class's prompts (8x200's protocol), or of those prompts by images.

    A candidate is right when it has a class of the query; a query image never finds its own patient.
    """

    classes: tuple[str, ...]
    queries: Literal["images", "prompts"] = "images"
    gallery: Literal["images", "prompts"] = "images"
    prompts: str | None = None
    truth: str = "labels"
    k: tuple[PositiveInt, ...] = (1, 5, 10, 50)
    primary_k: int = 5


@dataclass(kw_only=True)
class Members(Plan):
    """Images with a known class, and their classes [n, C]."""

    classes: NDArray[np.bool_]


@families.register("class_retrieval")
class ClassRetrieval(Task[Members]):
    Config = Settings
    needs = frozenset({"labels"})
    compares_samples = True
    titles, meanings = words_of("class_retrieval")

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        asked = "prompts" in (settings.queries, settings.gallery)
        if settings.queries == settings.gallery == "prompts" or asked != bool(settings.prompts):
            raise ConfigError(f"task {spec.id}: `prompts` names the texts for either `queries` or `gallery`: prompts")
        self.prompts = prompt_files.read(settings.prompts, settings.classes, folder) if settings.prompts else None

    def describe(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings), "prompts": [self.prompts.to_tree()] if self.prompts else []}

    def check(self, data: Data) -> Findings:
        return check_labels(data, {name: (name,) for name in self.settings.classes}, self.settings.truth)

    def plan(self, context: Context) -> Members:
        found = labels_of(context.data, context.usable, self.settings.classes, self.settings.truth) == 1
        known = np.flatnonzero(found.any(1))
        what = f"a class of {', '.join(self.settings.classes)}"
        indices = require_any([context.usable[row] for row in known], what, context.data)
        texts = self.prompts.all() if self.prompts else []
        return Members(images=indices, texts=texts, classes=found[known])

    def run(self, context: Context, plan: Members) -> Outcome:
        indices, classes = plan.images, plan.classes
        images = unit(context.cache.images(context.data, indices))
        sides = {"images": Side(images, classes, codes([context.data.patient(index) for index in indices]))}
        if self.prompts:
            texts = [unit(context.cache.texts(text.pos)) for text in self.prompts.texts.values()]
            of_text = np.repeat(np.eye(len(texts), dtype=bool), [len(text) for text in texts], axis=0)
            sides["prompts"] = Side(np.concatenate(texts), of_text, None)
        queries, gallery = sides[self.settings.queries], sides[self.settings.gallery]
        drawn = context.draw(indices)
        by_image = self.settings.queries == "images"
        found = search(queries, gallery, self.settings.k, None if by_image else drawn.weights)
        outcome = Outcome(indices, {}, prompts=[self.prompts.to_tree()] if self.prompts else [])
        names = [*(f"p@{k}" for k in found.ks), "map"]
        for name, values, draws in zip(names, found.values.T, found.drawn.T, strict=True):
            # over the patients of the queries, or of the gallery that fixed texts search
            bounds = of_mean(values, drawn[found.keep]) if by_image else of_draws(draws, drawn, drawn.patients)
            main = name == f"p@{self.settings.primary_k}"
            outcome.metrics[name] = metric(float(values.mean()), bounds, chance=found.chance, primary=main)
        outcome.scoring = {"queries": self.settings.queries, "n_queries": len(found.keep)}
        outcome.scoring |= {"gallery": len(gallery.rows), "ties": "index"}
        if by_image:
            outcome.rows = [context.row(index) for index in indices]
            for row, shares in zip(found.keep, found.values.tolist(), strict=True):
                outcome.rows[row] |= dict(zip(names, shares, strict=True))
        return outcome


@dataclass(frozen=True)
class Side:
    """What searches, or is searched: unit rows [n, D] with their classes [n, C] and, of images, a number for the patient."""

    rows: NDArray[np.float64]
    classes: NDArray[np.bool_]
    patient: NDArray[np.int64] | None


@dataclass(frozen=True)
class Found:
    """Of the queries that have an answer [Q]: precision at each of `ks` and average precision, `values` [Q, K + 1].

    `chance` of an answer. `drawn` [R, K + 1] are their means where the gallery's patients are resampled.
    """

    keep: NDArray[np.int64]
    chance: float
    ks: list[int]
    values: NDArray[np.float64]
    drawn: NDArray[np.float64]


def search(queries: Side, gallery: Side, ks: Sequence[int], weights: NDArray[np.int32] | None = None) -> Found:
    """Search the gallery by each query, and in each resample of it when `weights` [R, G] are given.

    Images do not find their own patient's. By blocks of queries: memory does not grow with their number. A k beyond the
    gallery is left out. Raises DataError when no query has an answer.
    """
    kept: list[int] = []
    found: list[NDArray[np.float64]] = []
    right = candidates = 0
    ks = [k for k in ks if k <= len(gallery.rows)]
    drawn = np.zeros((0, len(gallery.rows)), np.int32) if weights is None else weights
    sums, defined = np.zeros((2, len(drawn), len(ks) + 1))
    for block in blocks(len(queries.rows), 8 * len(gallery.rows)):
        scores = queries.rows[block] @ gallery.rows.T
        relevant = queries.classes[block].astype(np.int64) @ gallery.classes.T.astype(np.int64) > 0
        allowed = np.ones_like(relevant)
        if queries.patient is not None and gallery.patient is not None:
            allowed = queries.patient[block][:, None] != gallery.patient
        relevant &= allowed
        some_right = np.flatnonzero(relevant.any(1))
        right, candidates = right + int(relevant[some_right].sum()), candidates + int(allowed[some_right].sum())
        order = np.argsort(-np.where(allowed, scores, -np.inf)[some_right], axis=1, kind="stable")
        ranked = np.take_along_axis(relevant[some_right], order, axis=1)
        kept += (some_right + block.start).tolist()
        found.append(np.stack([*(precision_at(ranked, k) for k in ks), average_precisions(ranked)], axis=1))
        for row, places in zip(ranked, order, strict=True) if len(drawn) else ():
            values = drawn_precisions(row, drawn[:, places], ks)
            known = np.isfinite(values)
            sums += np.where(known, values, 0)
            defined += known
    if not kept:
        raise DataError("no query has an answer of its class in the gallery")
    return Found(np.array(kept), right / candidates, ks, np.concatenate(found), ratio(sums, defined))


def drawn_precisions(ranked: NDArray[np.bool_], weights: NDArray[np.int32], ks: Sequence[int]) -> NDArray[np.float64]:
    """Return precision at each k and the average precision [R, K + 1] of a ranking [G] whose candidates occur so often [R, G].

    Copies of a candidate stand side by side; of the last ones as many count as k has room for.
    """
    seen = np.cumsum(weights, axis=1)
    hits = np.where(ranked, weights, 0)
    columns = [(np.clip(k - (seen - weights), 0, weights) * ranked).sum(1) / k for k in ks]
    at = ratio(np.cumsum(hits, axis=1), seen)
    average = ratio(np.nansum(np.where(hits > 0, at * hits, 0), axis=1), hits.sum(1))
    return np.stack([*columns, average], axis=1)
