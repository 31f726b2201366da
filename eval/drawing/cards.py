"""What a section of the page is made of: rows of cards, each a title and pieces. `page.html` draws a piece by its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Frame

Scale = tuple[float, float]
Legend = tuple[tuple[str, str], ...]
"""Pairs of a mark's class in style.css ("" for none) and its words."""


@dataclass(frozen=True)
class Row:
    """A row of a forest plot: a metric's entry in the results on a track of this `scale`, or why it is undefined.

    `count` stands beside the title, `dots` are (value, words), `references` published numbers.
    """

    entry: Mapping[str, Any]
    title: str
    scale: Scale = (0.0, 1.0)
    references: Sequence[Mapping[str, Any]] = ()
    style: str = ""
    count: str = ""
    dots: Sequence[tuple[float, str]] = ()

    def place(self, value: float) -> float:
        """Return where a value lies, in percent of the track."""
        low, high = self.scale
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    @property
    def fill(self) -> tuple[float, float]:
        """Where the bar between 0 and the value begins and how wide it is, in percent of the track."""
        zero, place = self.place(0.0), self.place(self.entry["value"])
        return min(zero, place), round(abs(place - zero), 2)

    @property
    def bounds(self) -> str:
        """The interval in words; empty where there is none."""
        low, high = self.entry.get("ci", (None, None))
        return "" if low is None else f"{low:.3f} to {high:.3f}{' ?' if 'unreliable' in self.entry else ''}"


@dataclass(frozen=True)
class Forest:
    """Scores with their intervals, a row each; `legend` explains the marks that occur."""

    rows: Sequence[Row]
    legend: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart with its legend."""

    frame: Frame
    legend: Legend = ()


@dataclass(frozen=True)
class Multiples:
    """Small charts (chart, caption, number) side by side; folded away under a `summary` where one is given."""

    charts: Sequence[tuple[Frame, str, str]]
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


class Slices(Note):
    """Three slices of a volume through the maximum of a phrase's map, those of another volume, and a stack to look through."""


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


def references_of(task: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the published numbers that stand beside a metric, or beside the main metric of a class."""
    return [reference for reference in task["references"] if reference["metric"] == name]


def mark_kinds(rows: Iterable[Row]) -> set[str]:
    """Return which sorts of marks occur in rows: chance, oracle, reference, interval, control."""
    known = [row for row in rows if row.entry["value"] is not None]
    names = {"chance": "chance", "oracle": "oracle", "ci": "interval"}
    kinds = {kind for row in known for name, kind in names.items() if name in row.entry}
    return kinds | {row.style for row in known} | ({"reference"} if any(row.references for row in known) else set())


def scale_of(entries: Iterable[Mapping[str, Any]], bounded: bool = True) -> Scale:
    """Return a track's range for metrics with their intervals and chance: at least [0, 1], [-0.5, 2] where not `bounded`."""
    known = [entry for entry in entries if entry["value"] is not None]
    values = [value for entry in known for value in (entry["value"], *entry.get("ci", ()))]
    values += [entry["chance"] for entry in known if "chance" in entry]
    if not bounded:
        return min(0.0, -0.5, *values), max(2.0, *values) * 1.05
    low = min([0.0, *values])
    return (low if low >= 0 else min(low, -0.2)), max([1.0, *values])
