"""Is a finding that a sentence names there, not there, or only possible? Cues and their reach, after ConText's idea.

medspaCy and negspaCy do this on top of spaCy; they would bring a pipeline, a model package and a second tokenizer into
every worker for what amounts to lists of cues, so the lists are ours: in `languages/rules/`, one file a language. Cues are
regular expressions on a sentence; a cue reaches forward or backward until a clause, a verb or a new item of a list ends
it, and the nearest cue wins. A mention is compared with its nearest `NEAREST` cues and no further than `REACH`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlp.sample import Assertion

from .answers import ANSWERS
from .languages.base import Grammar
from .languages.english import ENGLISH

REACH = 300
NEAREST = 6

_LABELLED = re.compile(r"[:;=?|\t]|\.\s")


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue in a sentence: what it says of what stands after it (`forward`) or before it; None says nothing.

    An `answer` belongs to the label before it, however that is worded.
    """

    start: int
    end: int
    says: Assertion | None
    forward: bool
    answer: bool = False


def find_cues(sentence: str, grammar: Grammar = ENGLISH.grammar) -> list[Cue]:
    """Return the cues of a sentence; where two would share characters the first sort of the grammar has them."""
    taken = bytearray(len(sentence) + 1)
    cues: list[Cue] = []

    def claim(match: re.Match[str]) -> bool:
        free = taken.find(1, match.start(), match.end()) < 0
        if free:
            taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        return free

    for pattern, answer in ANSWERS:
        cues += [
            Cue(match.start(), match.end(), answer, False, True) for match in pattern.finditer(sentence) if claim(match)
        ]
    for pattern, says, directions in grammar.cues:
        for match in pattern.finditer(sentence):
            if claim(match):
                both = (True, False) if _is_either(match[0], grammar) else directions
                cues += [Cue(match.start(), match.end(), says, forward) for forward in both]
    return cues


def classify(sentence: str, start: int, end: int, cues: list[Cue], grammar: Grammar = ENGLISH.grammar) -> Assertion:
    """Return what a sentence says of the mention at characters `[start, end)`: the nearest cue that reaches it."""
    near = [cue for cue in cues if cue.says is not None and (cue.end <= start or end <= cue.start)]
    # what follows a finding ("cannot be excluded", "is not seen") judges it whatever stands before, unless far away
    after = sorted(
        (cue for cue in near if not cue.forward and end <= cue.start < end + REACH), key=lambda cue: cue.start
    )
    for cue in after[:NEAREST]:
        if _reaches_backward(sentence, end, cue, grammar):
            return cue.says or "present"
    told = grammar.told.match(sentence)
    if told and told.end() <= start and not grammar.end.search(sentence, told.end(), start):
        return "uncertain"
    before = sorted((cue for cue in near if cue.forward and start - REACH < cue.end <= start), key=lambda cue: -cue.end)
    for cue in before[:NEAREST]:
        if _reaches_forward(sentence, cue.end, start, grammar):
            return _of_today(sentence, end, cue.says or "present", grammar)
    return "present"


def _of_today(sentence: str, end: int, says: Assertion, grammar: Grammar) -> Assertion:
    """Return "uncertain" for what was absent in an earlier examination: it says nothing of today."""
    clause = grammar.end.split(sentence[end : end + REACH], maxsplit=1)[0].split(",")[0]
    earlier = says == "absent" and grammar.prior.search(clause)
    return "uncertain" if earlier else says


def _reaches_forward(sentence: str, start: int, stop: int, grammar: Grammar) -> bool:
    between = sentence[start:stop]
    if grammar.end.search(between):
        return False
    clause = grammar.end.split(sentence[start : stop + REACH], maxsplit=1)[0]
    if grammar.verb.search(between) and re.search(r",|\b(?:and|und|y)\b", between):
        return False
    new_item = grammar.new_item.search(between)
    comma = grammar.comma.search(between)
    if new_item and not grammar.alternative.search(clause[new_item.end() :]):
        return False
    if comma is None:
        return True
    # "no effusion, pneumothorax or edema" goes on; so does a bare list; "no effusion, the heart is large" does not
    return bool(grammar.alternative.search(clause[comma.end() :])) or not grammar.verb.search(clause[comma.end() :])


def _reaches_backward(sentence: str, start: int, cue: Cue, grammar: Grammar) -> bool:
    between = sentence[start : cue.start]
    if cue.answer:
        return not (_LABELLED.search(between) or grammar.end.search(between) or grammar.verb.search(between))
    between = grammar.aside.sub(" ", between)
    same = grammar.same_subject.search(between)
    if same:
        between = grammar.verb.sub(" ", between[: same.start()])
    if grammar.end.search(between) or grammar.restart.search(between):
        return False
    if "," in between and _is_either(sentence[cue.start : cue.end], grammar):
        return False  # "an opacity, atelectasis versus pneumonia": the opacity is there
    while own := grammar.own_verb.search(between):  # the cue's own "is", "has been"; other verbs are the mention's
        between = between[: own.start()]
    return not grammar.verb.search(between)


def _is_either(text: str, grammar: Grammar) -> bool:
    return bool(grammar.either.match(f"{text} "))
