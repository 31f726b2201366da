"""What the extractor has to know of a language: how words are spelled, what denies or doubts, where things are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vlp.sample import Assertion

CueTable = tuple[tuple[re.Pattern[str], Assertion | None, tuple[bool, ...]], ...]


Meaning = TypeVar("Meaning")


def table(words_of: Mapping[Meaning, str]) -> dict[str, Meaning]:
    """Return what each word means, from the words of each meaning, with blanks between them."""
    return {word: meaning for meaning, text in words_of.items() for word in text.split()}


def pattern(text: str) -> re.Pattern[str]:
    """Return a pattern that is blind to case."""
    return re.compile(text, re.IGNORECASE)


def any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one pattern, blind to case, that matches where any of `patterns` does."""
    return pattern("|".join(f"(?:{text})" for text in patterns))


@dataclass(frozen=True, slots=True)
class Grammar:
    """Cues in the order in which they claim characters, and what ends their reach; see `negation.py`.

    `cues`: (pattern, what it says, directions: True forward, False backward); None says nothing and only claims.
    `end` ends a reach; `verb` and `new_item` end it behind a list; `alternative` keeps a list going; `either` stands
    between two findings; `aside` is a clause in commas; `same_subject` a second clause about the first one's finding;
    `own_verb` the verb of a cue behind its finding; `restart` begins a clause; `prior` names an earlier examination,
    and `told` opens a statement about one.
    """

    cues: CueTable
    end: re.Pattern[str]
    verb: re.Pattern[str]
    new_item: re.Pattern[str]
    comma: re.Pattern[str]
    alternative: re.Pattern[str]
    either: re.Pattern[str]
    aside: re.Pattern[str]
    same_subject: re.Pattern[str]
    own_verb: re.Pattern[str]
    restart: re.Pattern[str]
    prior: re.Pattern[str]
    told: re.Pattern[str]
    negation: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class PlaceWords:
    """Words for sides and zones, and what stands between a place and the finding that it belongs to; see `location.py`.

    `behind`: words of place that stand behind their finding wherever nothing separates them.
    """

    lobes: Mapping[str, tuple[str, str]]
    sides: Mapping[str, str]
    zones: Mapping[str, str]
    no_side: re.Pattern[str]
    no_zone: re.Pattern[str]
    separator: re.Pattern[str]
    both: frozenset[str]
    no_both: re.Pattern[str]
    compared: re.Pattern[str]
    far: re.Pattern[str]
    joint: re.Pattern[str]
    preposition: re.Pattern[str]
    neighbour: re.Pattern[str]
    opening: re.Pattern[str]
    introduced: re.Pattern[str]
    behind: frozenset[str]
    words: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Language:
    """A language that the extractor reads. `fold` maps characters one to one before anything is looked for."""

    code: str
    normal: Callable[[str], str]
    small_words: frozenset[str]
    fold: Mapping[int, int]
    grammar: Grammar
    places: PlaceWords


def place_pattern(*tables: Mapping[str, object]) -> re.Pattern[str]:
    """Return the pattern of all words of place."""
    names = sorted({name for words_of in tables for name in words_of}, key=len, reverse=True)
    return pattern(rf"(?<!\w)(?:{'|'.join(names)})(?!\w)")
