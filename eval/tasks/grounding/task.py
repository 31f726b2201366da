"""Phrase grounding: whether the map of a phrase is highest where its boxes are; each score stands beside its controls.

Controls: the same phrase on another patient's image (shuffled), another finding's phrase on the same image (wrong phrase),
the mean box of the phrase's words in other data (text prior, never sees an image), a box in the middle of the image, and
phrases without a place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlp.modalities.volume.store import decode
from vlp.sample import Box

from ...data.checks import check_boxes
from ...data.dataset import Data, Findings
from ...drawing.cards import Section
from ...maps.nifti import write_nifti
from ...maps.phrase_maps import Map, Maps
from ...metrics.grounding import box_mask, has_content
from ...results import TaskResult
from ..base import Comparable, Context, Mean, Outcome, Plan, families, require_any, words_of
from ..controls import CONTROLS, Rectangle, centre_map, partners
from ..map_task import MapTask
from .figures import example_cards, triptychs
from .location_prior import learn_boxes, map_of_boxes
from .query import Query, Settings
from .scores import DEPTH, DISTANCE, MACRO, RANDOM_SLICE, Scores, macro, names_of, scores_of, summary


@dataclass(kw_only=True)
class Queries(Plan):
    """Images with boxes, and the phrases asked of them."""

    queries: list[Query]


@families.register("grounding")
class Grounding(MapTask[Queries]):
    Config = Settings
    needs = frozenset({"boxes"})
    titles, meanings = words_of("grounding")
    unbounded = r"(bare_)?(cnr|distance_mm|depth_error_mm).*"

    @classmethod
    def comparable(cls, result: TaskResult) -> dict[str, Comparable]:
        """Return the scores of phrases that name a place, and of the `bare` ones under their own names."""
        found: dict[str, Comparable] = {}
        for name in result.metrics:
            column, bare = name.removeprefix("bare_"), name.startswith("bare_")
            if any(column in row for row in result.rows):
                found[name] = Mean([row.get(column) if bool(row.get("bare")) == bare else None for row in result.rows])
        return found

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        main, *more = super().section(result)
        return [main, *example_cards(result.figures), *more]

    def check(self, data: Data) -> Findings:
        return check_boxes(data)

    def plan(self, context: Context) -> Queries:
        indices = [index for index in context.usable if context.data.records[index].boxes][: self.settings.limit]
        require_any(indices, "a box", context.data)
        queries: list[Query] = []
        for place, index in enumerate(indices):
            together: dict[tuple[str, bool], list[Box]] = {}
            for box in context.data.records[index].boxes:
                label = box.label or box.phrase
                together.setdefault((box.phrase, False), []).append(box)
                if self.settings.bare and label in self.settings.bare:
                    together.setdefault((self.settings.bare[label], True), []).append(box)
            for (phrase, bare), boxes in together.items():
                named, places = boxes[0].label, tuple(box.xyxy for box in boxes)
                queries.append(Query(place, phrase, named or boxes[0].phrase, places, bare, bool(named)))
        local = indices if self.settings.source == "patches" else []
        return Queries(images=indices, patches=local, texts=[query.phrase for query in queries], queries=queries)

    def run(self, context: Context, plan: Queries) -> Outcome:
        indices, queries = plan.images, plan.queries
        settings = self.settings
        outcome = Outcome(indices, {})
        maps = Maps(context.cache, context.data, indices, settings.source, settings.sigma, settings.layer)
        texts = dict(zip(plan.texts, context.cache.texts(plan.texts), strict=True))
        prior = learn_boxes(context, settings.prior_split, indices)
        others = partners(context.data, indices, context.seed)
        wrong = wrong_phrases(queries, context.seed)
        table: list[Scores] = []
        kept: list[Query] = []
        for query, phrase in zip(queries, wrong, strict=True):
            truth, spacing = box_mask(query.boxes, *maps.shape(query.place)), maps.spacing(query.place)
            heat = maps.of(query.place, texts[query.phrase])
            if not truth[np.isfinite(heat)].any():
                flat = not any(map(has_content, query.boxes))
                reason = "box without area" if flat else "box outside of the image or of what the model sees"
                outcome.excluded[reason] = outcome.excluded.get(reason, 0) + 1
                continue
            shuffled = maps.of(others[query.place], texts[query.phrase])
            moved = rescale(query.boxes, truth.shape, shuffled.shape)
            heats = {
                "": heat,
                "shuffled": shuffled,
                "wrong_phrase": None if phrase is None else maps.of(query.place, texts[phrase]),
                "prior": map_of_boxes(prior, query, indices[query.place], truth.shape),
                "centre": centre_map(truth.shape),
            }
            values: Scores = {}
            for control, of_control in heats.items():
                boxes, inside, steps = list(query.boxes), truth, spacing
                if control == "shuffled":
                    boxes, inside = moved, box_mask(moved, *shuffled.shape)
                    steps = maps.spacing(others[query.place])
                values |= scores_of(of_control, inside, boxes, settings, steps, control)
                values.setdefault("area", float(truth[np.isfinite(heat)].mean()))
            kept.append(query)
            table.append(values)
            written = _write_map(context, indices[query.place], heat, len(kept)) if maps.is_volume else None
            outcome.rows.append(
                context.row(indices[query.place])
                | {"label": query.category, "bare": query.bare, "phrase": query.phrase if context.show_text else None}
                | {name: None if np.isnan(value) else value for name, value in values.items()}
                | ({"map": written} if written else {})
            )
        require_any(list(range(len(kept))), "a box that can be scored", context.data)
        outcome.scoring = {"map": settings.source, "sigma": settings.sigma, "thresholds": list(settings.thresholds)}
        outcome.scoring |= {"cut": settings.cut, "cnr": "signed, population variance", "pointing": "first maximum"}
        outcome.scoring["prior"] = prior.source
        if context.maps and not maps.is_volume:
            outcome.warnings.append("no maps written: NIfTI is for volumes, and these are images")
        if maps.is_volume:
            outcome.scoring |= {DISTANCE: "from the maximum to the nearest box", "outside": "all that the model sees"}
            outcome.scoring[DEPTH] = (
                "from the maximum's slice to the middle of the nearest box, along the volume's first axis"
            )
        self._metrics(context, outcome, kept, table)
        if context.draw_images:
            outcome.figures = triptychs(context, maps, indices, kept, table, texts, others)
        return outcome

    def _metrics(self, context: Context, outcome: Outcome, queries: Sequence[Query], table: Sequence[Scores]) -> None:
        """Enter the scores of phrases that name a place and of the `bare` ones, of each finding, and means over findings."""
        names = names_of(DISTANCE in table[0])
        columns = {name: np.array([scores[name] for scores in table]) for name in (*names, "area")}
        random = {DEPTH: np.array([scores.get(RANDOM_SLICE, np.nan) for scores in table])}
        owners = np.array([outcome.indices[query.place] for query in queries])
        bare = np.array([query.bare for query in queries])
        labels = np.array([query.category for query in queries])
        for prefix, members in (("", ~bare), ("bare_", bare)):
            if not members.any():
                continue
            drawn, areas = context.draw(owners[members].tolist()), columns["area"][members]
            for name in names:
                main = not prefix and name in ("pointing", "cnr")
                by_chance = random[name][members] if name in random else None
                entry = summary(columns[name][members], drawn, name, main, areas, prefix, by_chance)
                outcome.metrics[f"{prefix}{name}"] = entry
        for label in sorted(set(labels[~bare].tolist())):
            inside = ~bare & (labels == label)
            own = context.draw(owners[inside].tolist())
            outcome.per_class[label] = {"n": int(inside.sum())}
            for name in (*MACRO, *(f"pointing_{control}" for control in CONTROLS)):
                outcome.per_class[label][name] = summary(columns[name][inside], own, name)
        drawn = context.draw(owners[~bare].tolist())
        gain = (columns["pointing"] - columns["pointing_shuffled"])[~bare]
        outcome.metrics["pointing_minus_shuffled"] = summary(gain, drawn, "pointing_minus_shuffled")
        named = ~bare & np.array([query.labelled for query in queries])
        for name in MACRO if named.any() else ():
            values, areas = columns[name][named], columns["area"][named]
            outcome.metrics[f"{name}_macro"] = macro(values, labels[named].tolist(), drawn[named[~bare]], name, areas)


def _write_map(context: Context, index: int, heat: Map, number: int) -> str | None:
    """Write a phrase's map of a volume where that is asked for; return the file's name in the folder of the task's maps."""
    if context.maps is None:
        return None
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', context.data.records[index].key)}.{number}.nii.gz"  # no word of a report
    write_nifti(context.maps / name, heat, decode(context.data.image(index)))
    return name


def rescale(boxes: Sequence[Rectangle], size: tuple[int, ...], other: tuple[int, ...]) -> list[Rectangle]:
    """Return boxes of an image at the same relative place of an image of another size."""
    ratios = [new / old for new, old in zip(other, size, strict=True)][::-1] * 2
    return [tuple(edge * ratio for edge, ratio in zip(box, ratios, strict=True)) for box in boxes]


def wrong_phrases(queries: Sequence[Query], seed: int) -> list[str | None]:
    """Return for each question a phrase of another finding (and of the same kind, bare or not), None where there is none."""
    rng = np.random.default_rng(seed)
    pools: dict[bool, list[Query]] = {bare: [q for q in queries if q.bare == bare] for bare in (False, True)}
    here: dict[int, set[str]] = {}
    for query in queries:
        here.setdefault(query.place, set()).add(query.label)
    result: list[str | None] = []
    for query in queries:
        pool = pools[query.bare]
        picks = (pool[int(at)] for at in rng.integers(0, len(pool), 20))
        result.append(next((other.phrase for other in picks if other.label not in here[query.place]), None))
    return result
