"""Boxes as tables write them: mappings, lists, corners or sizes, with a phrase each. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlp.sample import Box

from .cells import CellError, absent, describe, parse_json, unicode_text

PLACES = ("xyxy", "xywh", "bbox", "box")
NAMES = ("phrase", "label", "category", "name")
FORMS = ("xyxy", "xywh")
DEEPEST = 6


def parse_boxes(value: Any, form: str = "xyxy", column: str = "boxes", keep_flat: bool = False) -> tuple[Box, ...]:
    """Return the boxes of a cell: `{phrase: box}`, `{phrase: [box, ...]}`, `[{"phrase": ..., "box": ...}]`, `[box]`.

    `form` says whether four numbers (of a volume six: x, y, z first) are corners ("xyxy") or corner and size ("xywh"); the
    names `xyxy` and `xywh` say it themselves. A mapping may hold a list of boxes and as many phrases (`{"bbox": [...],
    "category": [...]}`). A box's `label` is kept beside its phrase. `keep_flat` keeps boxes without an area, for a reader
    that counts them. Raises CellError.
    """
    found = _parse(parse_json(value, column), form, "", None, column, 0)
    for box in () if keep_flat else found:
        check_area(box.xyxy, column)
    return tuple(found)


def _parse(value: Any, form: str, phrase: str, label: str | None, column: str, depth: int) -> list[Box]:
    if absent(value) and not isinstance(value, float):
        return []
    if depth > DEEPEST:
        raise CellError("bad_box", f"column {column!r}: boxes nested too deeply")
    if isinstance(value, Mapping):
        place = next((name for name in PLACES if name in value), None)
        if place is None:
            return [
                box
                for name, inner in value.items()
                for box in _parse(inner, form, _word(name, column), label, column, depth + 1)
            ]
        inner_form = place if place in FORMS else form
        named = next((value[name] for name in NAMES if not absent(value.get(name))), phrase)
        if isinstance(named, (list, tuple)):
            if not isinstance(value[place], (list, tuple)) or len(named) != len(value[place]):
                raise CellError("bad_box", f"column {column!r}: {len(named)} names for another number of boxes")
            both = zip(value[place], named, strict=True)
            return [
                box
                for inner, name in both
                for box in _parse(inner, inner_form, _word(name, column), label, column, depth + 1)
            ]
        own = value.get("label")
        kept = label if absent(own) else _word(own, column)
        return _parse(value[place], inner_form, _word(named, column), kept, column, depth + 1)
    if isinstance(value, (list, tuple)):
        if len(value) in (4, 6) and not any(isinstance(edge, (list, tuple, Mapping)) for edge in value):
            return [Box(phrase or "finding", _edges(value, form, column), label)]
        return [box for inner in value for box in _parse(inner, form, phrase, label, column, depth + 1)]
    raise CellError("bad_box", f"column {column!r}: expected boxes, found {describe(value)}")


def corners(value: Any, form: str = "xyxy", column: str = "boxes") -> tuple[float, float, float, float]:
    """Return four numbers as corners; raises CellError for anything but finite numbers with a positive area."""
    x1, y1, x2, y2 = _edges(value, form, column, (4,))
    check_area((x1, y1, x2, y2), column)
    return x1, y1, x2, y2


def check_area(xyxy: tuple[float, ...], column: str) -> None:
    """Raise CellError for corners that enclose nothing."""
    half = len(xyxy) // 2
    sides = [high - low for low, high in zip(xyxy[:half], xyxy[half:], strict=True)]
    if min(sides) <= 0:
        shown = " x ".join(f"{side:g}" for side in sides)
        raise CellError(
            "bad_box", f"column {column!r}: a box of {shown}, expected a positive {'area' if half == 2 else 'volume'}"
        )


def _edges(value: Any, form: str, column: str, counts: tuple[int, ...] = (4, 6)) -> tuple[float, ...]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) not in counts
        or any(isinstance(edge, bool) or not isinstance(edge, (int, float)) for edge in value)
    ):
        words = " or ".join({4: "four", 6: "six"}[count] for count in counts)
        raise CellError("bad_box", f"column {column!r}: a box is {words} numbers")
    try:
        edges = tuple(float(edge) for edge in value)
    except OverflowError:
        raise CellError("bad_box", f"column {column!r}: a number that is too large") from None
    if form == "xywh":
        half = len(edges) // 2
        edges = edges[:half] + tuple(low + side for low, side in zip(edges[:half], edges[half:], strict=True))
    if not all(map(math.isfinite, edges)):
        raise CellError("bad_box", f"column {column!r}: a box with NaN or infinity")
    return edges


def _word(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise CellError("bad_box", f"column {column!r}: the name of a box is {describe(value)}, expected text")
    return unicode_text(value, column)
