"""Which words of reports behave as names of persons do, in upper, lower or mixed case.

Four signs, each counted over all texts: a word follows a title or the label of a person; it stands beside identifiers, words
that few patients have, or words that are names already; it is capitalised within sentences; and two words that several
patients have stand side by side in texts of fewer. A word that is not learnt is spelled by its pieces: an error costs tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache

from vlp.core.words import words

from .identifiers import TABLES, scan

MARK = "\ue000"
"""Stands in a text for an identifier that a pattern found."""
RARE = 0.1
"""Share of texts above which a word is a name only where a title, a signature or a name stands beside it."""
LONG_NUMBER = 5
"""Digits of a number that may be a record's."""
ROUNDS = 4
"""How far a name tells that the word beside it is one."""

RUN = re.compile(r"[^\W_]+")
DIGITS = re.compile(r"\d")
_PART = re.compile(rf"[^\W_]+|_{{2,}}|{MARK}|[.!?;:](?!\S)|\n")
_SENTENCE_END = re.compile(r"[.!?:;|>)\]-]$")
_GERMAN = frozenset({"kein", "keine", "und", "der", "die", "nicht", "mit", "im", "ist", "ohne", "beidseits", "keinen"})
TITLES, _ASKED, _VERBS, _BY, _OTHERS = (
    words(TABLES["words"][name]) for name in ("titles", "asked", "verbs", "by", "not_names")
)
"""What names follow, and what is no name; see `identifiers.yaml`."""
_NOT_NAMES = TITLES | _ASKED | _VERBS | _BY | _OTHERS


@lru_cache(maxsize=50_000)
def folded(word: str) -> str:
    """Return a word in lower case and without accents, as it is counted: tokenizers fold both."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


class PersonWords:
    """Counts of the company that words keep; `read` each text, then ask `names`."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._capital: Counter[str] = Counter()
        self._small: Counter[str] = Counter()
        self._titled: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._pairs: dict[tuple[str, str], tuple[int, int, int]] = {}  # times, patients, the last patient
        self._words: dict[str, str] = {}

    def read(self, text: str, patient: int) -> str:
        """Count the words of a text; return it without what a pattern finds."""
        parts, at = [], 0
        for finding in scan(text):
            parts += [text[at : finding.start], f" {MARK} "]
            at = finding.end
            if finding.kind == "name":
                for run in RUN.findall(text[finding.start : finding.end]):
                    self._titled[folded(run)] += 1
                    self.seen[folded(run)] += 1
        marked = "".join([*parts, text[at:]])
        self._count_capitals(marked)
        for line in marked.split("\n"):
            self._read_line(line, patient)
        return marked.replace(MARK, " ")

    def _read_line(self, line: str, patient: int) -> None:
        before, cue, verb = "", "", ""
        for part in _PART.findall(line):
            if part in (".", "!", "?", ";", ":"):
                if before in _ASKED and part == ":":
                    cue = "titled"
                elif before not in TITLES and cue != "titled" and len(before) > 1:
                    before, cue = "", ""
                continue
            word = (
                MARK
                if part == MARK or part.startswith("_") or len(DIGITS.findall(part)) >= LONG_NUMBER
                else folded(part)
            )
            word = self._words.setdefault(word, word)
            self.seen[word] += 1
            if before:
                times, patients, last = self._pairs.get((before, word), (0, 0, -1))
                self._pairs[before, word] = (times + 1, patients + (patient != last), patient)
            if cue == "titled":
                self._titled[word] += 1
            elif cue == "asked":
                self._asked[word] += 1
            if word in TITLES or (before in _VERBS and word in _BY) or (verb and word in _BY):
                cue = "titled"
            else:
                cue = "asked" if word in _ASKED else ""
            before = word

    def names(self, owned: Callable[[str], bool], texts_of: Callable[[str], int], least: int, total: int) -> set[str]:
        """Return the words that are names; `owned`: whether enough patients have a word; `texts_of`: how many texts do."""
        most = max(least, RARE * total)
        beside: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        strange: Counter[str] = Counter()
        for (one, other), (times, patients, _) in self._pairs.items():
            for word, company in ((one, other), (other, one)):
                if word in _NOT_NAMES or not owned(word):
                    continue
                loose = patients < least and max(texts_of(one), texts_of(other)) <= most
                if company == MARK or not owned(company) or loose:
                    strange[word] += times
                else:
                    beside[word].append((company, times))
        candidates = {word for word in self.seen if word != MARK and word not in _NOT_NAMES and owned(word)}
        found = {word for word in candidates if self._is_called(word, texts_of(word) > most)}
        usual = sum(strange.values()) / max(1, sum(self.seen[word] for word in candidates))
        strangers = max(0.5, 2 * usual)  # in a small set most words stand beside rare ones
        found |= {
            word
            for word in candidates
            if texts_of(word) <= most
            and (self._capital[word] > 4 * self._small[word] or strange[word] > strangers * self.seen[word])
        }
        for _ in range(ROUNDS):
            more = set()
            for word in candidates - found:
                known = sum(times for company, times in beside[word] if company in found)
                if texts_of(word) <= most:
                    known += strange[word] + self._asked[word]
                if known + self._titled[word] > strangers * self.seen[word]:
                    more.add(word)
            if not more:
                break
            found |= more
        return found

    def _is_called(self, word: str, frequent: bool) -> bool:
        titled, seen = self._titled[word], self.seen[word]
        return titled > (0.5 if frequent else 0.1) * seen or (not frequent and titled + self._asked[word] > 0.5 * seen)

    def _count_capitals(self, text: str) -> None:
        """Count how often each word within a sentence begins in upper case, as names do, and how often not."""
        words = set(text.lower().split())
        if len(words & _GERMAN) >= 2:
            return  # German writes all nouns so
        for line in text.splitlines():
            before = ""
            for token in line.split():
                run = RUN.search(token)
                if run is not None:
                    word = folded(run[0])
                    first, rest = run[0][0], run[0][1:]
                    if before and not _SENTENCE_END.search(before):
                        if first.isupper() and (not rest or not rest.isupper()):
                            self._capital[word] += 1
                            opener = RUN.search(before)
                            if opener is not None and opener[0].istitle() and before[-1].isalpha():
                                self._capital[folded(opener[0])] += 1  # "Anna Kowalska" at the beginning of a sentence
                        elif first.islower():
                            self._small[word] += 1
                    elif first.islower():
                        self._small[word] += 1
                before = token
