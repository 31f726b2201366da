"""The words that several patients share: what a tokenizer may learn from reports without learning who is in them.

A vocabulary is published with the model. A name or a record number that is frequent enough becomes a token of its own, and
stays one in every export. So identifiers that a pattern finds are taken out first (`identifiers.py`), then every word that
too few patients have, runs of digits, and words that behave as names do, whatever their case (`person_words.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vlp.core.errors import ConfigError

from .person_words import DIGITS, RUN, PersonWords, folded
from .spec import TextSpec

LONGEST_WORD = 100
"""Characters; a longer word is nothing to learn from."""


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
    def of_recipe(cls, spec: TextSpec, texts: Iterable[str] | None) -> SharedWords:
        """Count the words that a recipe's tokenizer is trained on; raises ConfigError where there are no texts."""
        if texts is None:
            raise ConfigError(
                f"tokenizer.path: a {spec.kind} tokenizer without a path is trained, and there are no texts"
            )
        return cls.count(texts, spec.shared_by)

    def summary(self) -> dict[str, int]:
        """Return what a tokenizer says of its training (`Tokenizer.trained`)."""
        return {"patients": self.patients, "min_patients": self.least, "words_left_out": self.left_out}

    @classmethod
    def count(cls, texts: Iterable[str], min_patients: int) -> SharedWords:
        """Count the words of texts; a text that is no `PatientText` is a patient of its own.

        Where there are few patients, `min_patients` is lowered to a quarter of them, never below two.
        """
        tokens: Counter[str] = Counter()
        frequency: Counter[str] = Counter()
        persons = PersonWords()
        owners: defaultdict[str, set[int]] = defaultdict(set)
        hidden: set[str] = set()  # words that hold an identifier: spelled, never learnt
        numbers: dict[str, int] = {}
        total = 0
        for total, text in enumerate(texts, 1):
            patient = text.patient if isinstance(text, PatientText) else f"\0{total}"
            number = numbers.setdefault(patient, len(numbers))
            clean = persons.read(text, number)
            pieces = [token for token in clean.split() if len(token) <= LONGEST_WORD]
            tokens.update(pieces)
            hidden.update(token for token in set(text.split()) - set(pieces) if len(token) <= LONGEST_WORD)
            found = {folded(run) for token in set(pieces) for run in RUN.findall(token)} | set(text)
            frequency.update(found)
            for word in found:
                if len(owners[word]) < min_patients:
                    owners[word].add(number)
        least = min(min_patients, max(2, len(numbers) // 4))
        names = persons.names(lambda word: len(owners.get(word, ())) >= least, frequency.__getitem__, least, total)

        def kept(run: str) -> bool:
            word = folded(run)
            if len(DIGITS.findall(run)) > (1 if run.isdigit() else 2) or len(owners.get(word, ())) < least:
                return False
            return word not in names

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
        runs = RUN.findall(token)
        for run in runs:
            if run not in verdicts:
                verdicts[run] = kept(run)
        if all(verdicts[run] for run in runs):
            counts[token] += count
            continue
        lost.update(run for run in runs if not verdicts[run])
        for part in RUN.sub(lambda match: match[0] if verdicts[match[0]] else " ", token).split():
            counts[part] += count
    return counts, lost
