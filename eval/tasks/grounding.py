"""Phrase grounding: does the map of a phrase rise where the phrase says? Beside each score: what looking is worth.

Controls: the same phrase on another patient's image (shuffled), another finding's phrase on the same image (wrong phrase),
the mean box of the phrase's words in other data (text prior, never sees an image), and phrases without a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.config import config, to_tree
from vlp.types import PatchGrid

from ..bootstrap import mean_interval, multiplicities
from ..data import Data, DataError
from ..maps import cell_similarity, smooth, to_image
from ..metrics.grounding import (
    THRESHOLDS,
    box_mask,
    contrast_to_noise,
    mean_iou,
    pointing_hit,
)
from ..metrics.ranking import Ranking
from ..results import metric
from ..saliency import Layer, Tower, find_layer
from ..saliency import cells as saliency_cells
from .base import Context, Outcome, Plan, Task, some, tasks
from .grounding_figures import triptychs
from .priors import Prior, Rectangle

Map = NDArray[np.float32]
NOTHING = float("nan")


@config
class Settings:
    """`limit`: the first images with boxes. `sigma`: smoothing on the patch grid, in cells. `prior_split`: where the text
    prior's mean boxes come from; without such a split, from the other patients of the scored one. `bare`: finding ->
    phrase without a place, scored against all boxes of the finding. `source`: `patches`, or a saliency method for models
    without aligned patches, on a `layer` of the image tower (by default the last one with a grid).
    """

    limit: int | None = None
    sigma: float = 0.0
    thresholds: tuple[float, ...] = THRESHOLDS
    prior_split: str | None = "train"
    bare: dict[str, str] | None = None
    source: Literal["patches", "gradcam", "gscorecam", "m2ib"] = "patches"
    layer: str | None = None


@dataclass(frozen=True)
class Query:
    """A phrase asked of an image: `place` its row among the images, and the boxes it speaks of."""

    place: int
    phrase: str
    label: str
    boxes: tuple[Rectangle, ...]
    bare: bool = False


@tasks.register("grounding")
class Grounding(Task):
    Config = Settings
    needs = frozenset({"boxes"})

    def show(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings)}

    def select(self, context: Context) -> tuple[list[int], list[Query], dict[str, int]]:
        """Return the images, the questions, and what was left out and why."""
        indices = [one for one in context.usable if context.data.records[one].boxes][: self.settings.limit]
        some(indices, "a box", context.data)
        queries: list[Query] = []
        for place, index in enumerate(indices):
            together: dict[tuple[str, bool], tuple[str, list[Rectangle]]] = {}
            for box in context.data.records[index].boxes:
                label = box.label or box.phrase
                together.setdefault((box.phrase, False), (label, []))[1].append(box.xyxy)
                if self.settings.bare and label in self.settings.bare:
                    together.setdefault((self.settings.bare[label], True), (label, []))[1].append(box.xyxy)
            for (phrase, bare), (label, boxes) in together.items():
                queries.append(Query(place, phrase, label, tuple(boxes), bare))
        return indices, queries, {}

    def plan(self, context: Context) -> Plan:
        indices, queries, _ = self.select(context)
        local = indices if self.settings.source == "patches" else []
        return Plan(images=indices, patches=local, texts=[one.phrase for one in queries])

    def run(self, context: Context) -> Outcome:
        indices, queries, excluded = self.select(context)
        maps = Maps(context, indices, self.settings)
        texts = dict(zip([q.phrase for q in queries], context.store.texts([q.phrase for q in queries]), strict=True))
        prior = Prior.learn(context, self.settings.prior_split, indices)
        others = partners(context.data, indices, context.seed)
        wrong = wrong_phrases(queries, context.seed)
        table: list[dict[str, float]] = []
        rows: list[dict[str, Any]] = []
        kept: list[Query] = []
        for number, query in enumerate(queries):
            height, width = maps.size(query.place)
            truth = box_mask(query.boxes, height, width)
            heat = maps.of(query.place, texts[query.phrase])
            if not truth[np.isfinite(heat)].any():
                excluded["box outside of the image or of what the model sees"] = (
                    excluded.get("box outside of the image or of what the model sees", 0) + 1
                )
                continue
            values = scores_of(heat, truth, self.settings.thresholds)
            partner = others[query.place]
            shuffled = maps.of(partner, texts[query.phrase])
            moved = rescale(query.boxes, (height, width), shuffled.shape)
            values |= control("shuffled", shuffled, box_mask(moved, *shuffled.shape))
            if wrong[number] is not None:
                values |= control("wrong_phrase", maps.of(query.place, texts[str(wrong[number])]), truth)
            values |= control("prior", *prior.map(query.label, query.phrase, query.bare, indices[query.place], truth))
            kept.append(query)
            table.append(values)
            rows.append(
                context.row(indices[query.place])
                | {"label": query.label, "bare": query.bare, "phrase": query.phrase if context.show_text else None}
                | {name: None if np.isnan(value) else value for name, value in values.items()}
            )
        some(list(range(len(kept))), "a box that can be scored", context.data)
        outcome = Outcome(indices, {}, excluded=excluded, rows=rows)
        outcome.scoring = {
            "map": self.settings.source,
            "sigma": self.settings.sigma,
            "thresholds": list(self.settings.thresholds),
            "cnr": "signed, population variance",
            "pointing": "first maximum",
            "prior": prior.source,
        }
        self._metrics(context, outcome, kept, table, indices)
        if context.pictures:
            outcome.figures = triptychs(context, maps, indices, kept, table, texts, others)
        return outcome

    def _metrics(
        self,
        context: Context,
        outcome: Outcome,
        queries: Sequence[Query],
        table: Sequence[dict[str, float]],
        indices: Sequence[int],
    ) -> None:
        groups = {"": [row for row, one in enumerate(queries) if not one.bare]}
        if self.settings.bare:
            groups["bare_"] = [row for row, one in enumerate(queries) if one.bare]
        for prefix, members in groups.items():
            if not members:
                continue
            patients = [context.data.patient(indices[queries[row].place]) for row in members]
            weights = multiplicities(patients, context.resamples, context.seed)
            for name in NAMES:
                values = np.array([table[row].get(name, NOTHING) for row in members])
                main = not prefix and name in ("pointing", "cnr")
                areas = [table[row]["area"] for row in members]
                outcome.metrics[f"{prefix}{name}"] = summary(values, weights, name, primary=main, areas=areas)
            for label in sorted({queries[row].label for row in members}) if not prefix else []:
                inside = [row for row in members if queries[row].label == label]
                outcome.per_class[label] = {"n": len(inside)}
                owners = [context.data.patient(indices[queries[row].place]) for row in inside]
                drawn = multiplicities(owners, context.resamples, context.seed)
                for name in ("pointing", "cnr", "miou", "pointing_shuffled", "pointing_prior"):
                    values = np.array([table[row].get(name, NOTHING) for row in inside])
                    outcome.per_class[label][name] = summary(values, drawn, name)
        both = [outcome.metrics[one]["value"] for one in ("pointing", "pointing_shuffled")]
        if None not in both:
            members = groups[""]
            gain = np.array([table[row]["pointing"] - table[row]["pointing_shuffled"] for row in members])
            patients = [context.data.patient(indices[queries[row].place]) for row in members]
            weights = multiplicities(patients, context.resamples, context.seed)
            outcome.metrics["pointing_minus_shuffled"] = metric(
                float(gain.mean()), mean_interval(gain, weights), chance=0.0
            )


NAMES = (
    "pointing",
    "cnr",
    "miou",
    "pixel_auroc",
    "pixel_ap",
    "cnr_absolute",
    "pointing_shuffled",
    "cnr_shuffled",
    "pointing_wrong_phrase",
    "cnr_wrong_phrase",
    "pointing_prior",
    "cnr_prior",
)
CHANCE = {"cnr": 0.0, "pixel_auroc": 0.5}


def summary(
    values: NDArray[np.float64],
    weights: NDArray[np.int32],
    name: str,
    primary: bool = False,
    areas: Sequence[float] = (),
) -> dict[str, Any]:
    """Return the mean over phrases with its interval; phrases for which it is undefined are counted."""
    known = np.isfinite(values)
    extra: dict[str, Any] = {"n": int(known.sum())}
    if not known.all():
        extra["undefined"] = int((~known).sum())
    chance = CHANCE.get(name)
    if name in ("pointing", "pixel_ap") and areas:
        chance = float(np.mean(areas))
    value = float(values[known].mean()) if known.any() else None
    bounds = mean_interval(values, weights) if known.any() else None
    return metric(value, bounds, chance=chance, primary=primary, reason="undefined for every phrase", **extra)


def scores_of(heat: Map, truth: NDArray[np.bool_], thresholds: Sequence[float]) -> dict[str, float]:
    """Return all scores of one map, NaN where one is undefined."""
    seen = np.isfinite(heat)
    ranking = Ranking.of(truth[seen].astype(np.int64), heat[seen])
    ones = np.ones(len(ranking.order))
    cnr = contrast_to_noise(heat, truth)
    overlap = mean_iou(heat, truth, thresholds)
    return {
        "pointing": float(bool(pointing_hit(heat, truth))),
        "cnr": NOTHING if cnr is None else cnr,
        "cnr_absolute": NOTHING if cnr is None else abs(cnr),
        "miou": NOTHING if overlap is None else overlap[1],
        "pixel_auroc": float(ranking.auroc(ones)[0]),
        "pixel_ap": float(ranking.average_precision(ones)[0]),
        "area": float(truth[seen].mean()),
    }


def control(name: str, heat: Map | None, truth: NDArray[np.bool_]) -> dict[str, float]:
    """Return pointing and CNR of a control's map, NaN where undefined."""
    hit = None if heat is None else pointing_hit(heat, truth)
    cnr = None if heat is None else contrast_to_noise(heat, truth)
    return {
        f"pointing_{name}": NOTHING if hit is None else float(hit),
        f"cnr_{name}": NOTHING if cnr is None else cnr,
    }


def rescale(boxes: Sequence[Rectangle], size: tuple[int, int], other: tuple[int, ...]) -> list[Rectangle]:
    """Return boxes of an image at the same relative place of an image of another size."""
    down, right = other[0] / size[0], other[1] / size[1]
    return [(x1 * right, y1 * down, x2 * right, y2 * down) for x1, y1, x2, y2 in boxes]


def partners(data: Data, indices: Sequence[int], seed: int) -> list[int]:
    """Return for each place the place of another patient's image, each used about once; itself where there is no other."""
    order = np.random.default_rng(seed).permutation(len(indices))
    result = list(range(len(indices)))
    for at, place in enumerate(order):
        for step in range(1, len(order)):
            other = int(order[(at + step) % len(order)])
            if data.patient(indices[other]) != data.patient(indices[int(place)]):
                result[int(place)] = other
                break
    return result


def wrong_phrases(queries: Sequence[Query], seed: int) -> list[str | None]:
    """Return for each question a phrase of another finding (and of the same kind, bare or not), None where there is none."""
    rng = np.random.default_rng(seed)
    pools: dict[bool, list[Query]] = {bare: [q for q in queries if q.bare == bare] for bare in (False, True)}
    here: dict[int, set[str]] = {}
    for one in queries:
        here.setdefault(one.place, set()).add(one.label)
    result: list[str | None] = []
    for one in queries:
        pool = pools[one.bare]
        picks = (pool[int(at)] for at in rng.integers(0, len(pool), 20))
        result.append(next((other.phrase for other in picks if other.label not in here[one.place]), None))
    return result


class Maps:
    """Maps of phrases on the images of a task: cosines of patch features read once, or a saliency method on demand."""

    def __init__(self, context: Context, indices: Sequence[int], settings: Settings) -> None:
        self._geometry = [context.store.geometry(context.data, one) for one in indices]
        self._settings = settings
        if settings.source == "patches":
            self._cells = context.store.patches(context.data, indices)
            grid = context.store.grid
            assert grid is not None
            self._grid = grid
            return
        embedder = context.store.embedder
        if embedder is None or not hasattr(embedder, "tower"):
            raise DataError(f"{settings.source} needs the model itself, and one that gives its tower (`tower()`)")
        self._tower: Tower = embedder.tower()
        self._images = [lambda one=one: embedder.prepare(context.data.image(one))[0] for one in indices]
        first = self._input(0)
        self._layer = find_layer(self._tower, self._tower.normalise(first), settings.layer)
        self._grid = grid_of_layer(context.store.grid, self._layer, int(first.shape[-1]))

    def _input(self, place: int) -> Any:
        import torch

        return torch.from_numpy(self._images[place]())[None].to(self._tower.device)

    def size(self, place: int) -> tuple[int, int]:
        return self._geometry[place].height, self._geometry[place].width

    def of(self, place: int, text: NDArray[np.float32]) -> Map:
        """Return the map [H, W] of a text embedding on an image."""
        if self._settings.source == "patches":
            cells = cell_similarity(self._cells[place], text, self._grid, self._settings.sigma)
        else:
            found = saliency_cells(self._tower, self._input(place), text, self._settings.source, self._layer)
            cells = smooth(found, self._settings.sigma)
        return to_image(cells, self._grid, self._geometry[place])


def grid_of_layer(own: PatchGrid | None, layer: Layer, side: int) -> PatchGrid:
    """Return where a layer's cells lie: the model's own grid where it has that shape, else an even tiling of the input."""
    if own is not None and (own.height, own.width) == (layer.height, layer.width):
        return own
    stride = (side / layer.height, side / layer.width)
    return PatchGrid(layer.height, layer.width, stride, (stride[0] / 2, stride[1] / 2))
