"""What a task's section of the page is made of: rows of cards, each a title and pieces. `page.html` draws a piece by its kind.

A task family composes its section of these in `Task.section`; the page knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .rows import Row

Legend = tuple[tuple[str, str], ...]
"""Pairs of a mark's class in style.css ("" for none) and its words."""


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

    words: str


@dataclass(frozen=True)
class Heading:
    """A heading within a card."""

    words: str


@dataclass(frozen=True)
class Published:
    """Published numbers (model, value) of one metric, with where they were read."""

    title: str
    numbers: Sequence[tuple[str, float]]
    sources: str


@dataclass(frozen=True)
class Query:
    """A query of a retrieval with its first results: an image or a text, and `answers` with score and correctness."""

    content: Mapping[str, Any]


@dataclass(frozen=True)
class Triptych:
    """An image with its boxes, the map of a phrase on it, and the same phrase's map on another image."""

    content: Mapping[str, Any]


@dataclass(frozen=True)
class ColourScale:
    """The colours of maps, from -bound to +bound."""

    bound: float


Piece = Forest | Chart | Multiples | Table | Matrix | Note | Heading | Published | Query | Triptych | ColourScale


@dataclass(frozen=True)
class Card:
    """A titled box of the page."""

    title: str
    pieces: Sequence[Piece]


Section = list[list[Card]]
"""Rows of cards: two or more of a row stand side by side."""
