"""Labels as tables write them: 1, 0, -1 and blank; yes and no; names joined by a bar; one name per row. Pure functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .cells import CellError, absent, describe, unicode_text

WORDS = {"true": 1, "yes": 1, "present": 1, "positive": 1, "false": 0, "no": 0, "absent": 0, "negative": 0}
WORDS |= {"uncertain": -1}
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?\s*%?\s*")
LONGEST_NAME = 100


def label_value(value: Any, column: str = "") -> int | None:
    """Return 1, 0 or -1 (uncertain) of a cell, None for an empty one; raises CellError for anything else."""
    if absent(value):
        return None
    lowered = str(value).strip().lower()
    if lowered in WORDS:
        return WORDS[lowered]
    try:
        number = float(lowered)
    except ValueError:
        number = float("nan")
    if number not in (1, 0, -1):
        soft = "a share between 0 and 1" if 0 < abs(number) < 1 else describe(value)
        soft = "another number" if abs(number) > 1 else soft
        raise CellError("bad_label", f"column {column!r}: expected 1, 0, -1, yes, no or empty, found {soft}")
    return int(number)


def from_columns(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the labels of a row with one column per label; empty cells are not stated. Raises CellError."""
    found = {name: label_value(row.get(name, ""), name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def is_value(value: Any) -> bool:
    """Return whether a cell is meant as a label's value, right or wrong, rather than as the names of labels."""
    if isinstance(value, (bool, int, float)):
        return True
    return isinstance(value, str) and (value.strip().lower() in WORDS or bool(_NUMBER.fullmatch(value)))


def names_in(value: Any, separators: str = "|;,", column: str = "") -> list[str]:
    """Return the label names in a cell: a list, a JSON or Python list as text, or names joined by a separator.

    Raises CellError for numbers, for a text that is too long to be names, and for what is neither list nor text.
    """
    if isinstance(value, (list, tuple)):
        return [name for item in value if not absent(item) for name in [_name(item, column)] if name]
    if not isinstance(value, str):
        raise CellError("bad_label", f"column {column!r}: expected names of labels, found {describe(value)}")
    text = value.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            return names_in(ast.literal_eval(text), separators, column)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise CellError("bad_label", f"column {column!r}: not a list of names") from None
    parts = (part.strip() for part in re.split(f"[{re.escape(separators)}]", text))
    return [_name(part, column) for part in parts if not absent(part)]


def _name(item: Any, column: str) -> str:
    if not isinstance(item, str) or _NUMBER.fullmatch(item):
        raise CellError("bad_label", f"column {column!r}: a number is no name of a label")
    name = unicode_text(item, column).strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise CellError("bad_label", f"column {column!r}: {len(name)} characters are no name of a label")
    return name


def cell_labels(value: Any, column: str, holds_values: bool) -> dict[str, int]:
    """Return the labels in a cell of a label column, by the column's kind; raises CellError.

    `holds_values`: the column is one label and its cells are values of it, so that a word is refused and never becomes a
    label's name; otherwise its cells are names of what is present, or a mapping from name to value.
    """
    if absent(value):
        return {}
    if isinstance(value, Mapping):
        return from_columns(value, [_name(name, column) for name in value])
    if holds_values or is_value(value):
        return from_columns({column: value}, [column])
    return dict.fromkeys(names_in(value, column=column), 1)
