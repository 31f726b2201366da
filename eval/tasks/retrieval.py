"""Retrieval: image to text, text to image, image to image; multi-positive, duplicates, fixed pools, precision by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.config import ConfigError, config, to_tree
from vlp.types import Sample

from .. import index, pictures
from .. import prompts as prompt_files
from ..bootstrap import Interval, Resamples
from ..data import DataError
from ..intervals import of_draws, of_mean
from ..metrics.ratio import ratio
from ..metrics.retrieval import Ranks, Ties, average_precisions, chance_hit, precision_at, rank_positives
from ..results import metric
from ..scoring import unit
from .base import Context, Outcome, Plan, Task, at_least, some, tasks
from .pool import Pool, codes, values_of

Direction = Literal["image-to-text", "text-to-image"]
SHORT = {"image-to-text": "i2t", "text-to-image": "t2i"}
Floats = NDArray[np.float32]


@config
class Settings:
    """Which pairs, and what counts as found.

    `text`: the report, a section of it, or the first caption. `distinct`: keep the first record of each value of this
    group column (`groups.state`), of `patient`, `study` or `text`. `size`: how many pairs, the first ones. `positives`: what
    else is right besides the pair itself and equal (normalised) texts: all of the same `study`, `patient` or value of a
    group column; `text`: nothing. `ties`: how equal scores count. `pools`: sizes of random galleries in which R@1 is scored
    too, for comparison with papers. `oracle`: a column that an ideal ranker would know.
    """

    text: Literal["report", "findings", "impression", "caption"] = "report"
    directions: tuple[Direction, ...] = ("image-to-text", "text-to-image")
    k: tuple[int, ...] = (1, 5, 10)
    primary_k: int = 10
    distinct: str | None = None
    size: int | None = None
    positives: str = "text"
    ties: Ties = "expected"
    pools: tuple[int, ...] = ()
    oracle: str | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "k", "size", "pools")


def text_of(record: Sample, which: str) -> str:
    """Return the text that a record is found by, empty where it has none."""
    if which == "caption":
        return record.captions[0].strip() if record.captions else ""
    if record.report is None:
        return ""
    return (record.report.text if which == "report" else record.report.section(which)).strip()


@tasks.register("retrieval")
class Retrieval(Task):
    Config = Settings
    needs = frozenset({"report"})

    def show(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings)}

    def pool(self, context: Context) -> Pool:
        """Return the pairs that are scored."""
        settings, data = self.settings, context.data
        found = [(one, text) for one in context.usable if (text := text_of(data.records[one], settings.text))]
        some([one for one, _ in found], f"a {settings.text}", data)
        indices, texts = [one for one, _ in found], [text for _, text in found]
        repeats = 0
        if settings.distinct:
            first = np.unique(codes(values_of(data, indices, texts, settings.distinct)), return_index=True)[1]
            repeats = len(indices) - len(first)
            indices, texts = [indices[one] for one in first], [texts[one] for one in first]
        indices, texts = indices[: settings.size], texts[: settings.size]
        groups, spelt = (codes(values_of(data, indices, texts, one)) for one in (settings.positives, "text"))
        return Pool(indices, texts, groups, spelt, repeats)

    def plan(self, context: Context) -> Plan:
        pool = self.pool(context)
        return Plan(images=pool.indices, texts=pool.texts)

    def run(self, context: Context) -> Outcome:
        pool, settings = self.pool(context), self.settings
        images = unit(context.store.images(context.data, pool.indices)).astype(np.float32)
        texts = unit(context.store.texts(pool.texts)).astype(np.float32)
        unique = texts[pool.first]
        outcome = Outcome(pool.indices, {}, scoring={"ties": settings.ties, "positives": settings.positives})
        outcome.scoring |= {"gallery_images": len(pool), "gallery_texts": len(unique), "text": settings.text}
        if without := sum(not text_of(context.data.records[one], settings.text) for one in context.usable):
            outcome.excluded[f"records without a {settings.text}"] = without
        if settings.distinct:
            outcome.scoring |= {"distinct": settings.distinct, "repeats_left_out": pool.repeats}
        rows = [context.row(one) for one in pool.indices]
        drawn = context.draw(pool.indices)  # a pair asks one query of each direction
        for direction in settings.directions:
            short = SHORT[direction]
            if direction == "image-to-text":
                queries, gallery, asked, (members, groups) = images, unique, pool.groups, pool.held
            else:
                queries, gallery, asked, (members, groups) = texts, images, pool.spelt, pool.texts_of_images()
            ranks = index.rank(queries, gallery, asked, groups, rows_of_groups=members)
            self._score(outcome, short, ranks, len(gallery), drawn)
            self._recall(outcome, short, ranks, (queries, gallery, asked, groups, members), drawn)
            for row, place in zip(rows, ranks.rank(settings.ties), strict=True):
                row |= {f"rank_{short}": float(place), f"{short}_mrr": float(1 / place)}
            for k in settings.k:  # a rank among ties does not say them
                for row, hit in zip(rows, ranks.hits(k, settings.ties), strict=True):
                    row[f"{short}_r@{k}"] = float(hit)
            for size in settings.pools:
                if size < len(pool):
                    pooled = self._pooled(images, texts, pool, direction, size, context.seed)
                    outcome.metrics[f"{short}_r@1_pool_{size}"] = pooled
        outcome.rows = rows
        self._oracle(context, outcome, pool)
        if context.pictures:
            outcome.figures = self._figures(context, pool, images, texts)
        if len(unique) < len(pool):
            outcome.warnings.append(f"{len(pool) - len(unique)} texts repeat another one; equals count as found")
        return outcome

    def _score(self, outcome: Outcome, short: str, ranks: Ranks, gallery: int, drawn: Resamples) -> None:
        ties = self.settings.ties
        for k in self.settings.k:
            hits = ranks.hits(k, ties)
            outcome.metrics[f"{short}_r@{k}"] = metric(
                float(hits.mean()),
                of_mean(hits, drawn),
                chance=chance_hit(gallery, ranks.positives, k),
                primary=k == self.settings.primary_k,
                n_queries=len(ranks),
                gallery=gallery,
            )
        places = ranks.rank(ties)
        outcome.metrics[f"{short}_median_rank"] = metric(float(np.median(places)), higher_is_better=False)
        outcome.metrics[f"{short}_mrr"] = metric(float((1 / places).mean()), of_mean(1 / places, drawn))

    def _recall(
        self,
        outcome: Outcome,
        short: str,
        ranks: Ranks,
        pairs: tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
        drawn: Resamples,
    ) -> None:
        """Add true recall, the share of a query's positives among the first k, where any query has several."""
        several = ranks.positives > 1
        if not several.any():
            return
        queries, gallery, asked, groups, members = pairs
        count = index.found(
            queries[several], gallery, asked[several], groups, self.settings.k, self.settings.ties, members
        )
        for at, k in enumerate(self.settings.k):
            shares = ranks.hits(k, self.settings.ties)
            shares[several] = count[:, at] / ranks.positives[several]
            outcome.metrics[f"{short}_recall@{k}"] = metric(
                float(shares.mean()),
                of_mean(shares, drawn),
                chance=min(1.0, k / len(gallery)),
                n_queries=len(ranks),
            )

    def _pooled(
        self, images: Floats, texts: Floats, pool: Pool, direction: Direction, size: int, seed: int, draws: int = 100
    ) -> dict[str, Any]:
        """Score R@1 in random galleries of a fixed size: many draws, mean and the spread over draws."""
        rng = np.random.default_rng(seed)
        values = []
        for _ in range(draws):
            chosen = rng.choice(len(pool), size, replace=False)
            queries, gallery, same = images, texts, pool.right(chosen, chosen)
            if direction == "text-to-image":
                queries, gallery, same = texts, images, same.T
            ranks = rank_positives(queries[chosen] @ gallery[chosen].T, same)
            values.append(float(ranks.hits(1, self.settings.ties).mean()))
        return metric(float(np.mean(values)), chance=1 / size, draws=draws, std=float(np.std(values)), gallery=size)

    def _oracle(self, context: Context, outcome: Outcome, pool: Pool) -> None:
        """Add what a ranker that knows the column `oracle` would score: it ties whatever agrees in it."""
        if not self.settings.oracle:
            return
        known = codes(values_of(context.data, pool.indices, pool.texts, self.settings.oracle))
        agree = (known[:, None] == known).astype(np.float32)
        same = pool.right(np.arange(len(pool)), np.arange(len(pool)))
        for direction in self.settings.directions:
            ranks = rank_positives(agree, same if direction == "image-to-text" else same.T)
            for k in self.settings.k:
                outcome.metrics[f"{SHORT[direction]}_r@{k}"]["oracle"] = float(ranks.hits(k, self.settings.ties).mean())

    def _figures(
        self, context: Context, pool: Pool, images: Floats, texts: Floats, show: int = 3, k: int = 5
    ) -> dict[str, Any]:
        """Return a few queries of each direction with their first k answers; which ones depends on the pool alone."""
        rng = np.random.default_rng(context.seed)
        chosen = np.sort(rng.choice(len(pool), min(show, len(pool)), replace=False))
        figures: dict[str, Any] = {"ranks": {}, "grid": []}
        for direction in self.settings.directions:
            queries, gallery = (images, texts) if direction == "image-to-text" else (texts, images)
            rows, scores = index.top(queries[chosen], gallery, k)
            for place, query in enumerate(chosen):
                sides = (query[None], rows[place]) if direction == "image-to-text" else (rows[place], query[None])
                right = pool.right(*sides).ravel()
                answers = [
                    {
                        "score": float(scores[place, at]),
                        "right": bool(right[at]),
                        "image": pictures.thumbnail(context, pool.indices[row]),
                        "text": pool.texts[row] if context.show_text else None,
                    }
                    for at, row in enumerate(rows[place])
                ]
                figures["grid"].append(
                    {
                        "direction": direction,
                        "image": pictures.thumbnail(context, pool.indices[query]),
                        "text": pool.texts[query] if context.show_text else None,
                        "answers": answers,
                    }
                )
        return figures


@config
class ImageSettings:
    """Search of images by images, of images by each class's prompts (8x200's protocol), or of those prompts by images.

    A candidate is right when it has a class of the query; a query image never finds its own patient.
    """

    classes: tuple[str, ...]
    queries: Literal["images", "prompts"] = "images"
    gallery: Literal["images", "prompts"] = "images"
    prompts: str | None = None
    truth: str = "labels"
    k: tuple[int, ...] = (1, 5, 10, 50)
    primary_k: int = 5

    def __post_init__(self) -> None:
        at_least(self, 1, "k")


@tasks.register("class_retrieval")
class ClassRetrieval(Task):
    Config = ImageSettings
    needs = frozenset({"labels"})

    def __init__(self, spec: Any, settings: ImageSettings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        asked = "prompts" in (settings.queries, settings.gallery)
        if settings.queries == settings.gallery == "prompts" or asked != bool(settings.prompts):
            raise ConfigError(f"task {spec.id}: `prompts` names the texts for either `queries` or `gallery`: prompts")
        self.prompts = prompt_files.read(settings.prompts, settings.classes, folder) if settings.prompts else None

    def show(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings), "prompts": [self.prompts.to_tree()] if self.prompts else []}

    def members(self, context: Context) -> tuple[list[int], NDArray[np.bool_]]:
        """Return the records with a known class and their classes [n, C]."""
        rows = []
        for one in context.usable:
            record = context.data.records[one]
            if self.settings.truth == "labels":
                flags = [record.labels.get(name) == 1 for name in self.settings.classes]
            else:
                flags = [record.groups.get(self.settings.truth) == name for name in self.settings.classes]
            if any(flags):
                rows.append((one, flags))
        some([one for one, _ in rows], f"a class of {', '.join(self.settings.classes)}", context.data)
        return [one for one, _ in rows], np.array([flags for _, flags in rows])

    def plan(self, context: Context) -> Plan:
        return Plan(images=self.members(context)[0], texts=self.prompts.all() if self.prompts else [])

    def run(self, context: Context) -> Outcome:
        indices, classes = self.members(context)
        images = unit(context.store.images(context.data, indices))
        sides = {"images": Side(images, classes, codes([context.data.patient(one) for one in indices]))}
        if self.prompts:
            texts = [unit(context.store.texts(one.pos)) for one in self.prompts.texts.values()]
            of_text = np.repeat(np.eye(len(texts), dtype=bool), [len(one) for one in texts], axis=0)
            sides["prompts"] = Side(np.concatenate(texts), of_text, None)
        queries, gallery = sides[self.settings.queries], sides[self.settings.gallery]
        drawn = context.draw(indices)
        by_image = self.settings.queries == "images"
        found = search(queries, gallery, self.settings.k, None if by_image else drawn.weights)
        outcome = Outcome(indices, {}, prompts=[self.prompts.to_tree()] if self.prompts else [])
        asked = drawn[found.keep] if by_image else drawn

        def bounds(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Interval | None:
            """Return the interval over the patients of the queries, or of the gallery that fixed texts search."""
            return of_mean(values, asked) if by_image else of_draws(draws, drawn, drawn.patients)

        for at, k in enumerate(found.ks):
            column = found.precision[:, at]
            outcome.metrics[f"p@{k}"] = metric(
                float(column.mean()),
                bounds(column, found.drawn_precision[:, at]),
                chance=found.chance,
                primary=k == self.settings.primary_k,
            )
        values = found.average_precision
        outcome.metrics["map"] = metric(float(values.mean()), bounds(values, found.drawn_average), chance=found.chance)
        outcome.scoring = {
            "queries": self.settings.queries,
            "n_queries": len(found.keep),
            "gallery": len(gallery.rows),
            "ties": "index",
        }
        outcome.rows = [context.row(one) for one in indices]
        if by_image:
            for row, value, shares in zip(found.keep, values, found.precision, strict=True):
                each = {f"p@{k}": float(share) for k, share in zip(found.ks, shares, strict=True)}
                outcome.rows[row] |= each | {"map": float(value)}
        return outcome


@dataclass(frozen=True)
class Side:
    """What searches, or is searched: unit rows [n, D] with their classes [n, C] and, of images, a number for the patient."""

    rows: NDArray[np.float64]
    classes: NDArray[np.bool_]
    patient: NDArray[np.int64] | None


@dataclass(frozen=True)
class Found:
    """Of the queries that have an answer [Q]: precision at each of `ks` [Q, K] and average precision [Q]; `chance` of an
    answer. `drawn_precision` [R, K] and `drawn_average` [R] are their means where the gallery's patients are resampled.
    """

    keep: NDArray[np.int64]
    chance: float
    ks: list[int]
    precision: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    drawn_precision: NDArray[np.float64]
    drawn_average: NDArray[np.float64]


def search(queries: Side, gallery: Side, ks: Sequence[int], weights: NDArray[np.int32] | None = None) -> Found:
    """Search the gallery by each query, and in each resample of it when `weights` [R, G] are given.

    Images do not find their own patient's. By blocks of queries: memory does not grow with their number. A k beyond the
    gallery is left out. Raises DataError when no query has an answer.
    """
    kept: list[int] = []
    precision: list[NDArray[np.float64]] = []
    average: list[NDArray[np.float64]] = []
    right = candidates = 0
    ks = [one for one in ks if one <= len(gallery.rows)]
    drawn = np.zeros((0, len(gallery.rows)), np.int32) if weights is None else weights
    sums, defined = np.zeros((len(drawn), len(ks) + 1)), np.zeros((len(drawn), len(ks) + 1))
    for block in index.blocks(len(queries.rows), 8 * len(gallery.rows)):
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
        precision.append(np.array([precision_at(ranked, k) for k in ks]).reshape(len(ks), -1).T)
        average.append(average_precisions(ranked))
        for row, places in zip(ranked, order, strict=True) if len(drawn) else ():
            values = drawn_precisions(row, drawn[:, places], ks)
            known = np.isfinite(values)
            sums += np.where(known, values, 0)
            defined += known
    if not kept:
        raise DataError("no query has an answer of its class in the gallery")
    means = ratio(sums, defined)
    return Found(
        keep=np.array(kept),
        chance=right / candidates,
        ks=ks,
        precision=np.concatenate(precision),
        average_precision=np.concatenate(average),
        drawn_precision=means[:, :-1],
        drawn_average=means[:, -1],
    )


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
