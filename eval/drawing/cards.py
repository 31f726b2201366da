"""What a task's section of the page is made of: rows of cards, each a title and pieces. `page.html` draws a piece by its kind.

A task family composes its section of these in `Task.section`; the page knows no family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Scale = tuple[float, float]
Legend = tuple[tuple[str, str], ...]
"""Pairs of a mark's class in style.css ("" for none) and its words."""


@dataclass(frozen=True)
class Row:
    """A row of a forest plot, places in percent of the track. `fill` (left, width) lies between 0 and the value, `marks`
    are (place, kind, words), `dots` (place, words). A row without a value says the `reason`.
    """

    title: str
    value: float | None
    text: str = ""
    bounds: str = ""
    place: float = 0.0
    fill: tuple[float, float] = (0.0, 0.0)
    low: float | None = None
    high: float | None = None
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    dots: list[tuple[float, str]] = field(default_factory=list)
    style: str = ""
    count: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Forest:
    """Scores with their intervals, a row each; `legend` explains the marks that occur."""

    rows: Sequence[Row]
    legend: bool = True


@dataclass(frozen=True)
class Chart:
    """A drawing of `charts` with its legend."""

    svg: Markup
    legend: Legend = ()


@dataclass(frozen=True)
class Multiples:
    """Small charts (drawing, caption, number) side by side; folded away under a `summary` where one is given."""

    charts: Sequence[tuple[Markup, str, str]]
    summary: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers; `style` is a class of style.css."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    style: str = "facts"


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: names [C] and counts [C, C], rows the truth."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Note:
    """A line of explanation."""

    content: Any


class Heading(Note):
    """A heading within a card."""


class Query(Note):
    """A query of a retrieval with its first results: an image or a text, and `answers` with score and correctness."""


class Triptych(Note):
    """An image with its boxes, the map of a phrase on it, and the same phrase's map on another image."""


class ColourScale(Note):
    """The colours of maps, from minus to plus this bound."""


@dataclass(frozen=True)
class Published:
    """Published numbers (model, value) of one metric, with where they were read."""

    title: str
    numbers: Sequence[tuple[str, float]]
    sources: str


Piece = Forest | Chart | Multiples | Table | Matrix | Published | Note


@dataclass(frozen=True)
class Card:
    """A titled box of the page."""

    title: str
    pieces: Sequence[Piece]


Section = list[list[Card]]
"""Rows of cards: two or more of a row stand side by side."""


def row(
    entry: Mapping[str, Any],
    title: str,
    scale: Scale = (0.0, 1.0),
    references: Sequence[Mapping[str, Any]] = (),
    style: str = "",
    count: str = "",
    dots: Iterable[tuple[float, str]] = (),
) -> Row:
    """Return the forest row of a metric's entry in the results; `count` stands beside the title, `dots` are (value, words)."""
    if entry["value"] is None:
        return Row(title, None, count=count, reason=entry.get("reason", "undefined"))

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - scale[0]) / (scale[1] - scale[0]))), 2)

    marks = [(place(entry[kind]), kind, f"{kind} {entry[kind]:.3f}") for kind in ("chance", "oracle") if kind in entry]
    for reference in references:
        words = f"{reference['model']} {reference['value']:.3f} ({reference['source']}; {reference['tag']})"
        marks.append((place(reference["value"]), "reference", words))
    bounds = entry.get("ci")
    return Row(
        title=title,
        value=entry["value"],
        text=f"{entry['value']:.3f}",
        bounds=f"{bounds[0]:.3f} to {bounds[1]:.3f}{' ?' if 'unreliable' in entry else ''}" if bounds else "",
        place=place(entry["value"]),
        fill=(min(place(0.0), place(entry["value"])), round(abs(place(entry["value"]) - place(0.0)), 2)),
        low=place(bounds[0]) if bounds else None,
        high=place(bounds[1]) if bounds else None,
        marks=marks,
        dots=[(place(value), words) for value, words in dots],
        style=style,
        count=count,
    )


def references_of(task: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the published numbers that stand beside a metric, or beside the main metric of a class."""
    return [reference for reference in task["references"] if reference["metric"] == name]


def mark_kinds(rows: Iterable[Row]) -> set[str]:
    """Return which sorts of marks occur in rows: chance, oracle, reference, interval, control."""
    rows = list(rows)
    kinds = {kind for entry in rows for _, kind, _ in entry.marks} | {entry.style for entry in rows}
    return kinds | ({"interval"} if any(entry.bounds for entry in rows) else set())


def scale_of(entries: Iterable[Mapping[str, Any]], bounded: bool = True) -> Scale:
    """Return a track's range for metrics with their intervals and chance: at least [0, 1], [-0.5, 2] where not `bounded`."""
    values = [
        value
        for entry in entries
        if entry["value"] is not None
        for value in (entry["value"], *entry.get("ci", ()), *([entry["chance"]] if "chance" in entry else ()))
    ]
    if not bounded:
        return min(0.0, -0.5, *values), max(2.0, *values) * 1.05
    low = min([0.0, *values])
    return (low if low >= 0 else min(low, -0.2)), max([1.0, *values])
