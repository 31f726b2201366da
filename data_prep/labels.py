"""Labels as tables write them: 1, 0, -1 and blank; names joined by a bar; one name per row. Pure functions."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .sources.base import Reject

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def label_value(value: Any) -> int | None:
    """Return 1, 0 or -1 (uncertain) of a cell, None for an empty one; raises Reject for anything else."""
    text = str(value).strip().lower()
    if text in ("", "nan", "none"):
        return None
    if text in ("true", "false"):
        return int(text == "true")
    try:
        number = float(text)
    except ValueError:
        raise Reject("bad_label", f"{value!r} is not 1, 0, -1 or empty") from None
    if number not in (1, 0, -1):
        raise Reject("bad_label", f"{value!r} is not 1, 0, -1 or empty")
    return int(number)


def from_columns(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the labels of a row with one column per label; empty cells are not stated. Raises Reject."""
    found = {name: label_value(row.get(name, "")) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def is_value(value: Any) -> bool:
    """Return whether a cell is a label's value rather than the names of labels."""
    return isinstance(value, (bool, int, float)) or bool(re.fullmatch(r"\s*-?[01](?:\.0*)?\s*", str(value)))


def names_in(value: Any, separators: str = "|;,") -> list[str]:
    """Return the label names in a cell: a list, a JSON or Python list as text, or names joined by a separator."""
    if isinstance(value, (list, tuple)):
        return [str(one).strip() for one in value if str(one).strip()]
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            return names_in(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            raise Reject("bad_label", f"not a list of names: {text[:60]!r}") from None
    return [one for one in (part.strip() for part in re.split(f"[{re.escape(separators)}]", text)) if one]


def json_value(value: Any) -> Any:
    """Return a cell that holds JSON as text as the value it stands for; raises Reject."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise Reject("bad_row", f"not JSON: {error.msg} at character {error.pos} of {value[:40]!r}") from None
    return value


def parse_boxes(
    value: Any, form: str = "xyxy", phrase: str = ""
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return (phrase, xyxy) of a cell: `{phrase: box}`, `{phrase: [box, ...]}`, `[{"phrase": ..., "box": ...}]`, `[box]`.

    `form` says whether four numbers are corners ("xyxy") or corner and size ("xywh"). Raises Reject.
    """
    value = json_value(value)
    if value in ("", None):
        return []
    if isinstance(value, Mapping) and not any(name in value for name in ("xyxy", "bbox", "box")):
        return [one for name, inner in value.items() for one in parse_boxes(inner, form, str(name))]
    if isinstance(value, Mapping):
        box = next(value[name] for name in ("xyxy", "bbox", "box") if name in value)
        name = next((str(value[name]) for name in ("phrase", "label", "category", "name") if name in value), phrase)
        return parse_boxes([box], "xyxy" if "xyxy" in value else form, name)
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(isinstance(one, (int, float)) for one in value):
        x, y, third, fourth = (float(one) for one in value)
        x2, y2 = (x + third, y + fourth) if form == "xywh" else (third, fourth)
        if not (x < x2 and y < y2):
            raise Reject("bad_box", f"{list(value)} is not {form} with a positive width and height")
        return [(phrase or "finding", (x, y, x2, y2))]
    if isinstance(value, (list, tuple)):
        return [one for inner in value for one in parse_boxes(inner, form, phrase)]
    raise Reject("bad_box", f"expected boxes, found {str(value)[:60]!r}")
