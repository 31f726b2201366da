"""Sentences of synthetic reports: words drawn, frames filled, and a text put together with the exact spans of what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlp.sample import Assertion, Mention, Report

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence says of a finding."""

    code: str
    assertion: Assertion
    side: str | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with marked mentions, and one or more facts for each mark: `facts[i]` belong to the i-th."""

    marked: str
    facts: tuple[tuple[Fact, ...], ...] = ()


def pick(options: Texts, rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def capital(marked: str) -> str:
    """Return a sentence with its first letter, inside a mark or not, in upper case."""
    first = 1 if marked.startswith("⟦") else 0
    return marked[:first] + marked[first].upper() + marked[first + 1 :]


def worded(frame: str, phrase: str, is_counted: bool) -> str:
    """Put a phrase into a frame, with the article that its first letter asks for where it is counted."""
    article = ("an" if phrase.lstrip("⟦")[0] in "aeiou" else "a") if is_counted else ""
    text = frame.format(a=article, A=article, np=phrase, NP=phrase)
    return capital(re.sub(" +", " ", text).strip())


def bare(name: str) -> str:
    """Return a name without its article."""
    return re.sub("^(a|an) ", "", name)


def prompts_of(names: Mapping[str, str], frames: Sequence[tuple[str, str]]) -> dict[str, tuple[Texts, Texts]]:
    """Return finding -> (affirming, denying) prompts: its name in each frame of a pair."""
    return {
        finding: (
            tuple(_filled(affirm, name) for affirm, _ in frames),
            tuple(_filled(deny, name) for _, deny in frames),
        )
        for finding, name in names.items()
    }


def _filled(frame: str, name: str) -> str:
    return frame.format(a=name, A=capital(name), x=bare(name))


def joined(
    sections: Iterable[tuple[str, str, Sequence[Sentence]]], numbered: str = ""
) -> tuple[Report, tuple[Mention, ...]]:
    """Return the report of sections (name, heading, sentences) and the mentions that are marked in it.

    The sentences of the section `numbered` have numbers before them where there are several.
    """
    text = ""
    spans: list[tuple[int, int]] = []
    places: dict[str, tuple[int, int]] = {}
    mentions: list[Mention] = []
    for section, heading, sentences in sections:
        text += ("\n" if text else "") + heading + " "
        begin = len(text)
        for number, sentence in enumerate(sentences, 1):
            if number > 1:
                text += " "
            if section == numbered and len(sentences) > 1:
                text += f"{number}. "
            start = len(text)
            marks = iter(sentence.facts)
            for piece in re.split("(⟦[^⟧]*⟧)", sentence.marked):
                if piece.startswith("⟦"):
                    word = piece[1:-1]
                    for said in next(marks):
                        place = (len(text), len(text) + len(word))
                        mentions.append(Mention(word, said.code, *place, said.assertion, said.side, said.zone))
                    text += word
                else:
                    text += piece
            spans.append((start, len(text)))
        places[section] = (begin, len(text))
    return Report(text, tuple(spans), places), tuple(mentions)
