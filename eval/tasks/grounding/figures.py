"""What the page draws of a grounding: examples evenly spaced from the best to the worst, with their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.volume.store import is_volume

from ...drawing import images
from ...drawing.cards import Card, ColourScale, Note, Section, Slices, Triptych
from ...maps.phrase_maps import Maps
from ..base import Context
from . import volume_figures
from .query import UNLABELLED, Query

SHOWN = 6


def example_cards(figures: Mapping[str, Any]) -> Section:
    """Return the cards of the examples that `triptychs` made, with the colour scale of their maps."""
    if not figures.get("examples"):
        return []
    words = (
        "Examples from the highest to the lowest CNR, evenly spaced. Each card: the image with the boxes of the phrase; the "
        "map of the phrase (cross: its maximum); the map of the same phrase on another patient's image."
    )
    examples = figures["examples"]
    if "stack" in examples[0]:
        words = volume_figures.WORDS
    head = Card("Example maps", [Note(words), ColourScale(figures["scale"])])
    return [[head], [Card("", [Slices(example) if "stack" in example else Triptych(example)]) for example in examples]]


def choose(queries: Sequence[Query], table: Sequence[Mapping[str, float]], count: int = SHOWN) -> list[int]:
    """Return rows to show, of questions with a place: one a finding as far as they go, spread evenly from best to worst CNR."""
    rows = [row for row, query in enumerate(queries) if not query.bare and np.isfinite(table[row]["cnr"])]
    rows.sort(key=lambda row: (-table[row]["cnr"], row))
    chosen: list[int] = []
    labels: list[str] = []
    for share in np.linspace(0.08, 0.92, min(count, len(rows))):
        start = int(share * (len(rows) - 1))
        near = sorted(rows, key=lambda row: abs(rows.index(row) - start))[: max(1, len(rows) // 4)]
        pick = min(
            near, key=lambda row: (labels.count(queries[row].label), row in chosen, abs(rows.index(row) - start))
        )
        if pick not in chosen:
            chosen.append(pick)
            labels.append(queries[pick].label)
    return chosen


def triptychs(
    context: Context,
    maps: Maps,
    indices: Sequence[int],
    queries: Sequence[Query],
    table: Sequence[Mapping[str, float]],
    texts: Mapping[str, NDArray[np.float32]],
    others: Sequence[int],
) -> dict[str, Any]:
    """Return examples with the image, its map, the same phrase's map on another patient's image, and the scores."""
    chosen = choose(queries, table)
    heats = []
    for row in chosen:
        text, place = texts[queries[row].phrase], queries[row].place
        heats.append((maps.of(place, text), maps.of(others[place], text)))
    finite = [np.abs(heat[np.isfinite(heat)]) for pair in heats for heat in pair]
    scale = float(np.quantile(np.concatenate(finite), 0.995)) if finite else 1.0
    examples = []
    for row, (own, other) in zip(chosen, heats, strict=True):
        query, scores = queries[row], table[row]
        index, another = indices[query.place], indices[others[query.place]]
        example: dict[str, Any] = {
            "phrase": query.phrase if context.show_text else query.category,
            "label": query.category,
        }
        example |= {"cnr": scores["cnr"], "hit": bool(scores["pointing"])}
        if maps.is_volume:
            example |= volume_figures.pictures(context, (index, another), (own, other), scale, query.boxes)
        else:
            example["own"] = _panel(context, index, own, scale, query.boxes)
            example["shuffled"] = _panel(context, another, other, scale, ())
        example["cnr_shuffled"] = None if np.isnan(scores["cnr_shuffled"]) else scores["cnr_shuffled"]
        examples.append(example)
    return {"examples": examples, "scale": scale, "samples": sample_images(context, indices)}


def _panel(
    context: Context, index: int, heat: NDArray[np.float32], scale: float, boxes: Sequence[Any]
) -> dict[str, Any]:
    height, width = heat.shape
    row, column = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
    panel: dict[str, Any] = {"image": images.thumbnail(context.data.image(index)), "heat": images.heat(heat, scale)}
    panel |= {"width": width, "height": height, "boxes": [[float(edge) for edge in box] for box in boxes]}
    return panel | {"peak": [float(column) + 0.5, float(row) + 0.5]}


def sample_images(context: Context, indices: Sequence[int], count: int = 4) -> list[dict[str, Any]]:
    """Return a few images with all their boxes, and the report where text may be shown."""
    richest = sorted(indices, key=lambda at: (-min(3, len({box.label for box in context.data.records[at].boxes})), at))
    result = []
    for index in richest[:count]:
        record = context.data.records[index]
        image = context.data.image(index)
        facts = {name: record.groups[name] for name in ("site", "sex", "age") if name in record.groups}
        text = record.report.text if record.report and context.show_text else None
        if is_volume(image):
            result.append(volume_figures.sample(image, record, context.show_text) | {"text": text, "facts": facts})
            continue
        pixels, (height, width) = images.pixels_of(image, 320)
        boxes = [
            {"xyxy": list(box.xyxy), "label": box.label or (box.phrase if context.show_text else UNLABELLED)}
            for box in record.boxes
        ]
        sample: dict[str, Any] = {"image": images.data_uri(pixels), "width": width, "height": height, "boxes": boxes}
        result.append(sample | {"text": text, "facts": facts})
    return result
