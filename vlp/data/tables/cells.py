"""What one cell of a table says: nothing, an id, a text, several texts. Pure functions.

A message names the column and the kind of value that was found, never the value: a cell may hold a report or an id.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from vlp.core.errors import ConfigError

_NOTHING = (
    r"|nan|-nan|none|null|(null)|n/a|na|<na>|#n/a|#n/a n/a|#na|nat|nil|\n|undefined|#null!|#value!|#ref!|#name?|#div/0!|#num!"
    "|1.#qnan|-1.#ind|1.#ind"
)
NOTHING = frozenset(_NOTHING.split("|"))
"""What programs write where there is nothing (lower case): pandas, R, SQL, spreadsheets, JavaScript."""

LONGEST_LITERAL = 200_000
WHOLE = 2**53
"""Beyond it a float no longer holds each integer: an id that came through one has lost digits."""


class TableError(ConfigError):
    """A table cannot be read as a whole: one line that says where, what was expected and what to do."""


class CellError(Exception):
    """A cell that does not hold what its column is for: a stable word (counted) and a detail without the cell's text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def absent(value: Any) -> bool:
    """Return whether a cell says nothing: None, NaN, blanks, or a program's word for it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and (not value or (len(value) < 32 and value.strip().lower() in NOTHING))


def describe(value: Any) -> str:
    """Return the kind and size of a value in words, for messages that must not quote it."""
    if isinstance(value, str):
        return f"{len(value)} characters of text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "nothing" if value is None else type(value).__name__


def unicode_text(value: str, column: str) -> str:
    """Return a text that can be written as UTF-8; raises CellError for half a character (a lone surrogate)."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CellError(
            "bad_text", f"column {column!r}: half a character (a lone surrogate) at {error.start}"
        ) from None
    return value


def parse_json(value: Any, column: str) -> Any:
    """Return what a cell that begins like JSON stands for, other cells as they are; raises CellError."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ", nested too deeply"
            raise CellError("bad_row", f"column {column!r}: expected JSON, found something else{where}") from None
    return value


def structure(value: Any) -> Any:
    """Return the list or mapping that a text spells as JSON or as Python prints it; other values as they are."""
    if not isinstance(value, str) or len(value) > LONGEST_LITERAL:
        return value
    stripped = value.strip()
    if (stripped[:1], stripped[-1:]) not in (("{", "}"), ("[", "]")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(stripped)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (list, dict)):
            return found
    return value


def text(value: Any, column: str) -> str:
    """Return the text in a cell, "" for none: a list's texts one a line, a mapping's as named sections; raises CellError."""
    return _text(structure(value), column, 0)


def _text(value: Any, column: str, depth: int) -> str:
    if absent(value):
        return ""
    if isinstance(value, str):
        return unicode_text(value, column)
    if isinstance(value, (list, tuple)) and depth < 3:
        return "\n".join(part for part in (_text(item, column, depth + 1) for item in value) if part)
    if isinstance(value, Mapping) and depth < 3:
        if isinstance(value.get("text"), str):
            return _text(value["text"], column, depth + 1)
        parts = [(name, _text(item, column, depth + 1)) for name, item in value.items()]
        named = [f"{unicode_text(str(name), column).upper().replace('_', ' ')}: {part}" for name, part in parts if part]
        return "\n".join(named)
    raise CellError("bad_text", f"column {column!r}: expected a text or its sections, found {describe(value)}")


def texts(value: Any, column: str) -> tuple[str, ...]:
    """Return the texts in a cell, each on its own: one, a list of them, or a mapping's values; raises CellError."""
    value = structure(value)
    items = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(items, (list, tuple)):
        found = (_text(item, column, 1) for item in items)
        return tuple(part for part in found if part)
    whole = _text(value, column, 0)
    return (whole,) if whole else ()


def identity(value: Any, column: str) -> str | None:
    """Return an id as text: leading zeros are kept, outer blanks and a `.0` of a number column are not; None for none.

    Raises CellError for what is no id, and where a spreadsheet has rounded one (1.23E+11).
    """
    if absent(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise CellError("bad_id", f"column {column!r}: expected an id, found {describe(value)}")
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > WHOLE:
            raise CellError("bad_id", f"column {column!r}: a number with a fraction, or too long to be exact, is no id")
        return str(int(value))
    found = unicode_text(str(value), column).strip().strip("\ufeff\u200b").strip()
    if re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?[eE]\+?\d+", found) and re.search(r"[.,+]", found):
        raise CellError("bad_id", f"column {column!r}: a spreadsheet has rounded this id (as in 1.2E+11)")
    return re.sub(r"^(-?\d+)\.0+$", r"\1", found) or None


def word(value: Any, column: str, most: int = 64) -> str | None:
    """Return a short word (a view, a split, a site), None for none; raises CellError for a text or a list."""
    if absent(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise CellError("bad_row", f"column {column!r}: expected a word, found {describe(value)}")
    found = unicode_text(str(value), column).strip()
    if len(found) > most or not found.isprintable():
        raise CellError("bad_row", f"column {column!r}: expected a word, found {describe(value)}")
    return found or None
