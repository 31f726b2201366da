"""Concepts of a report: which findings and devices it names, what it says of them, and where.

`Extractor` puts together the vocabulary (`vocabulary.py`), the cues (`negation.py`) and the places (`location.py`): rules
only, some milliseconds a report, in time linear in its length. It knows no grammar, so its scores on hand-written gold sets
are part of the tests.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from pathlib import Path

from vlp.core.config import ConfigError, digest, to_tree
from vlp.core.registry import did_you_mean
from vlp.sample import Assertion, Mention, Report

from .answers import is_answer, is_bare_label, ticked
from .languages import LANGUAGES
from .languages.base import Grammar
from .languages.detect import UNREAD, detect_language
from .location import place_mentions
from .negation import Cue, classify, find_cues
from .sections import CLINICAL, find_blocks
from .statements import split_sentences
from .vocabulary import Match, Vocabulary, default_vocabulary

CLINICAL_KINDS = ("finding", "device")


class Extractor:
    """Finds mentions. `kinds` chooses what sorts of entries are reported.

    Without a vocabulary of one's own the package's are used, each text in its own language, or all in `language`. With
    `roll_up`, a set of codes, each mention gets the nearest of its code's ancestors in the set, and mentions without one
    are left out: `roll_up={"device"}` turns pacemakers, tubes and clips into devices and drops the rest.
    """

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,
        kinds: Collection[str] = CLINICAL_KINDS,
        roll_up: Collection[str] | None = None,
        language: str | None = None,
    ) -> None:
        if vocabulary is not None:
            self._vocabularies = {vocabulary.language.code: vocabulary}
        else:
            codes = LANGUAGES if language is None else (language,)
            self._vocabularies = {code: default_vocabulary(code) for code in codes}
        self._stated = language
        self._kinds = frozenset(kinds)
        self._codes: dict[str, str | None] | None = None
        if roll_up is not None:
            known = next(iter(self._vocabularies.values()))
            for code in roll_up:
                if code not in known.entries:
                    near = did_you_mean(code, known.entries)
                    raise ConfigError(f"roll_up: no code {code!r} in the vocabulary{near}")
            self._codes = {
                code: next((ancestor for ancestor in known.ancestors(code) if ancestor in roll_up), None)
                for code in known.entries
            }

    def fingerprint(self) -> str:
        """Return a hash of the vocabularies."""
        trees = [
            [code, *(to_tree(entry) for entry in vocabulary.entries.values())]
            for code, vocabulary in self._vocabularies.items()
        ]
        return digest([self._stated, trees])

    def prepare(self, folder: Path) -> None:
        """Do nothing: the vocabulary is in memory."""

    def unread(self, report: Report) -> str | None:
        """Return why no mentions are taken from a report, None where its language is known."""
        if self._vocabulary(report.text) is not None:
            return None
        return f"{UNREAD}: {detect_language(report.text) or 'unknown'}"

    def _vocabulary(self, text: str) -> Vocabulary | None:
        code = self._stated or detect_language(text)
        return self._vocabularies.get(code) if code is not None else None

    def __call__(self, text: str, sentences: Sequence[tuple[int, int]]) -> tuple[Mention, ...]:
        """Return the mentions in the sentences `[start, end)` of a text, with characters of the text, in order.

        There are none where the language is not known: a word may look like a finding, its negation like nothing.
        """
        vocabulary = self._vocabulary(text)
        if vocabulary is None:
            return ()
        found: list[Mention] = []
        for start, end in sentences:
            for first, last in split_sentences(text, start, end):
                found += self._statement(text, first, last, vocabulary)
        return tuple(found)

    def extract(self, text: str) -> tuple[Mention, ...]:
        """Return the mentions of a text in what speaks of the image: not in its history, technique or comparison."""
        blocks = [block for block in find_blocks(text) if block.section in CLINICAL or not block.section]
        return self(text, [(block.body, block.end) for block in blocks])

    def of_report(self, report: Report) -> tuple[Mention, ...]:
        """Return the mentions of a report whose sentences are known, in the sections that speak of the image."""
        other = [span for name, span in report.sections.items() if name not in CLINICAL]
        blocks = find_blocks(report.text)
        other += [(block.start, block.end) for block in blocks if block.section and block.section not in CLINICAL]
        return self(report.text, _outside(report.sentences, other))

    def _statement(self, text: str, start: int, end: int, vocabulary: Vocabulary) -> list[Mention]:
        language = vocabulary.language
        # one for one: a line break that is still there means nothing, but for the one between a label and its answer
        cells = re.sub(r"[\n\t|]", lambda mark: _between(text, start, start + mark.start(), end), text[start:end])
        sentence = re.sub(r"\s", " ", cells).translate(language.fold)
        matches = vocabulary.find(sentence, self._kinds)
        if not matches:
            return []
        spans = [(match.start, match.end) for match in matches]
        cues = find_cues(sentence, language.grammar)
        places = place_mentions(sentence, spans, [match.entry.midline for match in matches], language.places)
        said = [_assertion(sentence, match, cues, language.grammar) for match in matches]
        said = _labels(sentence, matches, said, cues)
        box = ticked(sentence)
        mentions = []
        for match, place, assertion in zip(matches, places, said, strict=True):
            code = match.entry.code if self._codes is None else self._codes[match.entry.code]
            if code is None:
                continue
            mentions.append(
                Mention(
                    text=text[start + match.start : start + match.end],
                    code=code,
                    start=start + match.start,
                    end=start + match.end,
                    assertion=assertion if box is None else BOXED[box, assertion],
                    side=None if match.denies and place.side == "bilateral" else place.side,  # "both lungs are clear"
                    zone=place.zone,
                )
            )
        return mentions


BOXED: dict[tuple[Assertion, Assertion], Assertion] = {
    ("present", "present"): "present",
    ("present", "absent"): "absent",
    ("present", "uncertain"): "uncertain",
    ("absent", "present"): "absent",
    ("absent", "absent"): "uncertain",  # an empty box before "no effusion"
    ("absent", "uncertain"): "absent",
    ("uncertain", "present"): "uncertain",
    ("uncertain", "absent"): "uncertain",
    ("uncertain", "uncertain"): "uncertain",
}
"""(check box, words beside it) -> what both say."""


def _between(text: str, start: int, at: int, end: int) -> str:
    """Return what a line's end or a bar between two cells stands for: a colon before an answer, else a blank."""
    cell = re.split(r"[\n|\t]", text[at + 1 : min(end, at + 80)].lstrip(), maxsplit=1)[0]
    return ":" if is_answer(cell) and is_bare_label(text[start:at]) else " "


def _outside(sentences: Sequence[tuple[int, int]], other: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sentences that begin in none of `other`."""
    covered: list[tuple[int, int]] = []
    for start, end in sorted(other):
        if covered and start <= covered[-1][1]:
            covered[-1] = (covered[-1][0], max(end, covered[-1][1]))
        else:
            covered.append((start, end))
    starts = [start for start, _ in covered]
    places = ((span, bisect_right(starts, span[0]) - 1) for span in sentences)
    return [span for span, place in places if place < 0 or span[0] >= covered[place][1]]


def _assertion(sentence: str, match: Match, cues: list[Cue], grammar: Grammar) -> Assertion:
    inside = grammar.negation.search(sentence, match.start, match.end)
    judged = classify(sentence, match.start, match.end, cues, grammar)
    if match.denies:
        # "heart size is normal" says absent; "heart size is not normal" leaves open in which way it is not
        return "uncertain" if inside or judged != "present" else "absent"
    if judged == "present" and sentence.rstrip().endswith("?"):
        return "uncertain"
    return "absent" if inside else judged


_LABEL_END = re.compile(r"\s*(?:\([^()]{0,30}\)\s*)?(?::|\s[-–—](?=\s))\s*")


def _labels(sentence: str, matches: list[Match], said: list[Assertion], cues: list[Cue]) -> list[Assertion]:
    """Let a label say what its answer does: "Pleural effusion: no effusion", "Infiltrate: no consolidation", "Mass:"."""
    judged = list(said)
    for number, match in enumerate(matches):
        colon = _LABEL_END.match(sentence, match.end)
        if colon is None or said[number] != "present" or match.denies:
            continue
        if not re.search(r"\w", sentence[colon.end() :]):
            judged[number] = "uncertain"
            continue
        answers = [(other.entry.code, said[at]) for at, other in enumerate(matches) if other.start >= colon.end()]
        same = [assertion for code, assertion in answers if code == match.entry.code]
        opening = [cue.says for cue in cues if cue.forward and cue.says and cue.start == colon.end()]
        if same:
            judged[number] = same[0]
        elif opening and all(assertion == opening[0] for _, assertion in answers):
            judged[number] = opening[0]
    return judged
