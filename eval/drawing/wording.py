"""How scores are written on the page and in tables, and how much of a long list: all of it is in results.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
SIDE = 20
"""Of more than twice so many classes the best and the worst so many are shown."""
TEXT = 4000
"""So many characters of a text are shown."""


def ends(items: Sequence[T], value: Callable[[T], float | None]) -> list[T]:
    """Return all items, or of more than 2 SIDE the SIDE with the largest and the SIDE with the smallest value."""
    if len(items) <= 2 * SIDE:
        return list(items)
    known = [(found, at) for at, item in enumerate(items) if (found := value(item)) is not None]
    order = [at for _, at in sorted(known, key=lambda pair: (-pair[0], pair[1]))]
    return [items[at] for at in (order if len(order) <= 2 * SIDE else order[:SIDE] + order[-SIDE:])]


def hidden(count: int, what: str = "classes") -> str:
    """Return what a page says of a list of which `ends` are shown; empty where all of it is."""
    if count <= 2 * SIDE:
        return ""
    return (
        f"{2 * SIDE} of {count:,} {what} are shown: the first and the last {SIDE} in order of their score. All are in "
        "results.json, and in the table of vlp-eval report --csv."
    )


def value_words(entry: Mapping[str, Any]) -> str:
    """Return a metric's value as tables print it."""
    return "undefined" if entry["value"] is None else f"{entry['value']:.3f}"


def interval_words(entry: Mapping[str, Any]) -> str:
    """Return a metric's interval, with why it is unreliable where it is; the reason of an undefined metric."""
    doubt = f" (unreliable: {entry['unreliable']})" if "unreliable" in entry else ""
    return f"{entry['ci'][0]:.3f} to {entry['ci'][1]:.3f}{doubt}" if "ci" in entry else entry.get("reason", "")


def chance_words(entry: Mapping[str, Any]) -> str:
    """Return a metric's chance level; empty where it has none."""
    return f"{entry['chance']:.3f}" if "chance" in entry else ""


def cut(value: Any) -> Any:
    """Return a text for the page, cut where it is very long; images and markup stay whole."""
    if isinstance(value, str) and len(value) > TEXT and not hasattr(value, "__html__"):
        return value if value.startswith("data:image/") else f"{value[:TEXT]} … ({len(value):,} characters)"
    return value


def confusion_figure(title: str, names: Sequence[str], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return counts [C, C] for the page, rows the truth; of many classes the most frequent mistakes alone."""
    if len(names) <= 2 * SIDE:
        return {"title": title, "classes": list(names), "counts": counts.tolist()}
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: 2 * SIDE].tolist()
    places = [divmod(place, len(names)) for place in order if wrong.flat[place]]
    pairs = [[names[row], names[column], int(wrong[row, column]), int(counts[row].sum())] for row, column in places]
    return {"title": title, "pairs": pairs, "n_classes": len(names)}
