"""The words for findings, devices and anatomy: reads a vocabulary file and finds its entries in a sentence.

Matching is by whole words, blind to case, plural and hyphens; the longest match wins. What a text says of a match
(there, not there, where) is decided in `negation.py` and `location.py`. The English file declares the concepts; those of
other languages (`languages/*.yaml`) name them in their words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vlp.core.config import ConfigError, config, read_yaml, validate
from vlp.core.registry import did_you_mean

from .languages import LANGUAGES
from .languages.base import Language
from .languages.english import ENGLISH

Kind = Literal["finding", "device", "anatomy"]
DEFAULT = Path(__file__).parent / "vocabulary.yaml"
TRANSLATIONS = Path(__file__).parent / "languages"

GAP = 5
_WORD = re.compile(r"[^\W_]+(?:['’]s)?")


@config
class Entry:
    """A concept: see the comments at the top of `vocabulary.yaml`."""

    code: str
    kind: Kind
    synonyms: tuple[str, ...]
    denials: tuple[str, ...] = ()
    parent: str | None = None
    midline: bool = False


@config
class _File:
    entries: tuple[Entry, ...]
    language: Literal["en", "es", "de"] = "en"


@config
class _Words:
    synonyms: tuple[str, ...]
    denials: tuple[str, ...] = ()


@config
class _Translation:
    words: dict[str, _Words]


@dataclass(frozen=True, slots=True)
class Match:
    """Characters `[start, end)` of a sentence that name `entry`, or, when `denies`, say that it is not there."""

    entry: Entry
    start: int
    end: int
    words: int
    denies: bool


class Vocabulary:
    """Concepts by code, and the index that finds them."""

    def __init__(self, entries: Collection[Entry], where: str = "vocabulary", language: Language = ENGLISH) -> None:
        self.language = language
        self.entries = {entry.code: entry for entry in entries}
        self._patterns: dict[str, list[tuple[tuple[str, ...], Entry, bool]]] = {}
        if len(self.entries) != len(entries):
            codes = [entry.code for entry in entries]
            twice = sorted({code for code in codes if codes.count(code) > 1})
            raise ConfigError(f"{where}: codes given twice: {', '.join(twice)}")
        owner: dict[tuple[str, ...], str] = {}
        for entry in entries:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.code):
                raise ConfigError(f"{where}: code {entry.code!r} is not snake_case")
            if entry.parent is not None and entry.parent not in self.entries:
                near = did_you_mean(entry.parent, self.entries)
                raise ConfigError(f"{where}: parent {entry.parent!r} of {entry.code!r} is no entry{near}")
            for phrase, denies in [(term, False) for term in entry.synonyms] + [(term, True) for term in entry.denials]:
                pattern = tuple(
                    part if part == "~" else language.normal(part) for part in re.findall(r"~|[^\W_]+", phrase.lower())
                )
                if not pattern or pattern[0] == "~" or pattern[-1] == "~":
                    raise ConfigError(f"{where}: {entry.code}: {phrase!r} must begin and end with a word")
                if not denies and owner.setdefault(pattern, entry.code) != entry.code:
                    raise ConfigError(f"{where}: {phrase!r} is a synonym of {owner[pattern]!r} and of {entry.code!r}")
                self._patterns.setdefault(pattern[0], []).append((pattern, entry, denies))

    @classmethod
    def read(cls, path: Path = DEFAULT) -> Vocabulary:
        """Read a YAML file; raises ConfigError with the file and the entry."""
        file = validate(_File, read_yaml(path), path.name)
        return cls(file.entries, str(path), LANGUAGES[file.language])

    @classmethod
    def translated(cls, base: Vocabulary, path: Path, language: Language) -> Vocabulary:
        """Read the words of another language for the concepts of `base`; raises ConfigError with the file and the code."""
        words = validate(_Translation, read_yaml(path), path.name).words
        for code in words:
            if code not in base.entries:
                raise ConfigError(f"{path}: no code {code!r} in the vocabulary{did_you_mean(code, base.entries)}")
        nothing = _Words(synonyms=())
        entries = [
            replace(entry, synonyms=found.synonyms, denials=found.denials)
            for entry in base.entries.values()
            for found in [words.get(entry.code, nothing)]
        ]
        return cls(entries, str(path), language)

    def __len__(self) -> int:
        return len(self.entries)

    def ancestors(self, code: str) -> Iterator[str]:
        """Yield a code, its parent, its parent's parent, ...; the last ancestor of any device is `device`."""
        kind = self.entries[code].kind
        current: str | None = code
        seen: set[str] = set()
        while current is not None and current not in seen:
            yield current
            seen.add(current)
            current = self.entries[current].parent
        if kind == "device" and "device" in self.entries and "device" not in seen:
            yield "device"

    def find(self, sentence: str, kinds: Collection[str]) -> list[Match]:
        """Return the longest matches in a sentence that do not overlap, in order; several codes may share one span."""
        normal = self.language.normal
        words = [(normal(word[0]), word.start(), word.end()) for word in _WORD.finditer(sentence)]
        found = []
        for first, (word, start, _) in enumerate(words):
            for pattern, entry, denies in self._patterns.get(word, ()):
                last = self._match(pattern, words, first, sentence, denies)
                if last is not None and entry.kind in kinds:
                    found.append(Match(entry, start, words[last][2], last - first + 1, denies))
        found.sort(key=lambda match: (-match.words, match.start))
        kept: list[Match] = []
        for match in found:
            rivals = [other for other in kept if other.start < match.end and match.start < other.end]
            if all(
                (other.start, other.end) == (match.start, match.end) and _together(other, match) for other in rivals
            ):
                kept.append(match)
        return sorted(kept, key=lambda match: (match.start, match.entry.code))

    def _match(
        self, pattern: tuple[str, ...], words: list[tuple[str, int, int]], first: int, sentence: str, denies: bool
    ) -> int | None:
        """Return the index of the last word that `pattern` reaches from word `first`, or None."""
        place, slack = first, 0
        stop = r"[.;,()]" if denies else r"[.;:,()]"  # "Heart: normal" is a denial too
        for part in pattern[1:]:
            if part == "~":
                slack = GAP
                continue
            while True:
                place += 1
                if place >= len(words) or re.search(stop, sentence[words[place - 1][2] : words[place][1]]):
                    return None
                word = words[place][0]
                if word == part:
                    break
                if slack == 0 or word not in self.language.small_words:
                    return None
                slack -= 1
            slack = 0
        return place


def _together(first: Match, second: Match) -> bool:
    """Tell whether one span may stand for both: only what denies several concepts at once does."""
    return first.denies and second.denies and first.entry.code != second.entry.code


@lru_cache
def default_vocabulary(language: str = "en") -> Vocabulary:
    """Return the package's vocabulary of a language, read once."""
    if language == "en":
        return Vocabulary.read()
    return Vocabulary.translated(default_vocabulary(), TRANSLATIONS / f"{language}.yaml", LANGUAGES[language])
