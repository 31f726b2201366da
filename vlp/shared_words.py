"""The words that several patients share: what a tokenizer may learn from reports without learning who is in them.

A vocabulary is published with the model. A name or a record number that is frequent enough becomes a token of its own, and
stays one in every export. So identifiers that a pattern finds are taken out first (`identifiers.py`), then every word that
too few patients have, runs of digits, and rarer words that behave as names do: they are capitalised within sentences, or
stand beside words that nobody else has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from .identifiers import without_identifiers

LONGEST_WORD = 100
"""Characters; a longer word is nothing to learn from."""
RARE = 0.1
"""Share of texts above which a word is no name, however it is written."""
LONG_NUMBER = 5
"""Digits of a number that may be a record's."""

_RUN = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"\d")
_SENTENCE_END = re.compile(r"[.!?:;|>)\]-]$")
_GERMAN = frozenset({"kein", "keine", "und", "der", "die", "nicht", "mit", "im", "ist", "ohne", "beidseits", "keinen"})


class PatientText(str):
    """A text and whose it is: the patient, else the study, else the sample's key."""

    patient: str

    def __new__(cls, text: str, patient: str) -> PatientText:
        made = super().__new__(cls, text)
        made.patient = patient
        return made


@dataclass(frozen=True, slots=True)
class SharedWords:
    """Words between blanks with their counts; `unlearnt` may be spelled by single characters only.

    `patients`: how many there were; `least`: how many had to share a word; `left_out`: how many distinct words did not.
    """

    counts: Counter[str]
    unlearnt: frozenset[str]
    patients: int
    least: int
    left_out: int

    @classmethod
    def count(cls, texts: Iterable[str], min_patients: int) -> SharedWords:
        """Count the words of texts; a text that is no `PatientText` is a patient of its own.

        Where there are few patients, `min_patients` is lowered to a quarter of them, never below two.
        """
        tokens: Counter[str] = Counter()
        frequency: Counter[str] = Counter()
        names: Counter[str] = Counter()
        seen: Counter[str] = Counter()
        common: Counter[str] = Counter()
        beside: defaultdict[str, Counter[str]] = defaultdict(Counter)
        owners: defaultdict[str, set[int]] = defaultdict(set)
        hidden: set[str] = set()  # words that hold an identifier: spelled, never learnt
        numbers: dict[str, int] = {}
        total = 0
        for total, text in enumerate(texts, 1):
            patient = text.patient if isinstance(text, PatientText) else f"\0{total}"
            number = numbers.setdefault(patient, len(numbers))
            clean = without_identifiers(text)
            pieces = [token for token in clean.split() if len(token) <= LONGEST_WORD]
            tokens.update(pieces)
            hidden.update(token for token in set(text.split()) - set(pieces) if len(token) <= LONGEST_WORD)
            found = {folded(run) for token in set(pieces) for run in _RUN.findall(token)} | set(text)
            frequency.update(found)
            for word in found:
                if len(owners[word]) < min_patients:
                    owners[word].add(number)
            _count_capitals(clean, names, common)
            for line in clean.splitlines():
                runs = [folded(run) for run in _RUN.findall(line)]
                seen.update(runs)
                for one, other in pairwise(runs):
                    for word, rare in ((one, other), (other, one)):
                        if len(owners[rare]) < min_patients or len(_DIGITS.findall(rare)) >= LONG_NUMBER:
                            beside[word][rare] += 1
        least = min(min_patients, max(2, len(numbers) // 4))
        most = max(least, RARE * total)

        def is_name(word: str) -> bool:
            """A word that is not frequent is one where it is always capitalised, or mostly stands beside what none share."""
            if frequency[word] > most:
                return False
            strangers = sum(
                count
                for rare, count in beside.get(word, Counter()).items()
                if len(owners[rare]) < least or len(_DIGITS.findall(rare)) >= LONG_NUMBER
            )
            return names[word] > 4 * common[word] or strangers > 0.5 * seen[word]

        def kept(run: str) -> bool:
            word = folded(run)
            if len(_DIGITS.findall(run)) > (1 if run.isdigit() else 2) or len(owners[word]) < least:
                return False
            return not is_name(word)

        def spelled(word: str) -> str:
            return "".join(letter for letter in word if letter.isascii() or len(owners.get(letter, ())) >= least)

        counts, lost = _filtered(tokens, kept)
        unlearnt = frozenset(letters for word in lost | hidden if (letters := spelled(word)))
        return cls(counts, unlearnt, len(numbers), least, len({folded(word) for word in lost}))


def _filtered(tokens: Counter[str], kept: Callable[[str], bool]) -> tuple[Counter[str], set[str]]:
    """Return the counts of what is left of each word, and the words that are lost."""
    counts: Counter[str] = Counter()
    lost: set[str] = set()
    verdicts: dict[str, bool] = {}
    for token, count in tokens.items():
        runs = _RUN.findall(token)
        for run in runs:
            if run not in verdicts:
                verdicts[run] = kept(run)
        if all(verdicts[run] for run in runs):
            counts[token] += count
            continue
        lost.update(run for run in runs if not verdicts[run])
        for part in _RUN.sub(lambda match: match[0] if verdicts[match[0]] else " ", token).split():
            counts[part] += count
    return counts, lost


@lru_cache(maxsize=50_000)
def folded(word: str) -> str:
    """Return a word in lower case and without accents, as it is counted: tokenizers fold both."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def _count_capitals(text: str, names: Counter[str], common: Counter[str]) -> None:
    """Count how often each word within a sentence begins in upper case, as names do, and how often not."""
    words = set(text.lower().split())
    if len(words & _GERMAN) >= 2:
        return  # German writes all nouns so
    for line in text.splitlines():
        before = ""
        for token in line.split():
            run = _RUN.search(token)
            if run is not None:
                word = folded(run[0])
                first, rest = run[0][0], run[0][1:]
                if before and not _SENTENCE_END.search(before):
                    if first.isupper() and (not rest or not rest.isupper()):
                        names[word] += 1
                        opener = _RUN.search(before)
                        if opener is not None and opener[0].istitle() and before[-1].isalpha():
                            names[folded(opener[0])] += 1  # "Anna Kowalska" at the beginning of a sentence
                    elif first.islower():
                        common[word] += 1
                elif first.islower():
                    common[word] += 1
            before = token
