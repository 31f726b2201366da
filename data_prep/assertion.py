"""Is a finding that a sentence names there, not there, or only possible? Cues and their reach, after ConText's idea.

medspaCy and negspaCy do this on top of spaCy; they would bring a pipeline, a model package and a second tokenizer into
every worker for what amounts to the cue lists below, so the lists are ours. Cues are regular expressions on a sentence;
a cue reaches forward or backward until a clause, a verb or a new item of a list ends it, and the nearest cue wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlp.types import Assertion

Span = tuple[int, int]

_DEGREE = (
    r"(?:\s+(?:significant|substantial|appreciable|definite|relevant|obvious|major|further|real|interval|overt|gross|other|"
    r"acute|new))*"
)
_CHANGE = r"(?:change|increase|decrease|difference|improvement|progression|worsening|growth)s?"
_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|visible|evident|present|appreciated|demonstrated|apparent|noted|detected|observed|found|"
    r"shown|recogni[sz]ed)"
)
PSEUDO = (
    rf"\b(?:no|without|not\s+any){_DEGREE}\s+{_CHANGE}\b(?:\s+(?:in|of|from|to)\b)?",
    r"\bnot\s+(?:significantly |substantially |appreciably |markedly )?(?:changed|increased|decreased|improved|worsened)\b",
    r"\bnot\s+only\b",
    r"\bno\s+(?:prior|previous|comparison|old)\s+(?:stud|exam|film|image|radiograph|chest|comparison)\w*",
    r"\b(?:nearly|almost|partially|partly|incompletely|not(?:\s+\w+)?)\s+(?:completely\s+)?(?:resolved|cleared)\b",
    r"\b(?:near(?:ly)?|almost|partial|incomplete|some)[\s-]+(?:complete\s+)?(?:resolution|clearing)\s+of\b",
    r"\b(?:no|without(?:\s+a)?)\s+(?:doubt|question)\b",
    rf"\bnot\s+(?:well\s+|clearly\s+)?{_SEEN}\s+(?:on|in)\s+(?:the\s+|a\s+|any\s+)?(?:lateral|frontal|ap|pa|prior|previous|"
    r"earlier|old)\b",
)
"""Look like negations and are none."""

_CANNOT = (
    r"(?:can\s?not|can't|could\s+not|couldn't|may\s+not)\s+(?:be\s+)?"
    r"(?:entirely\s+|completely\s+|definitively\s+|reliably\s+)?"
)
UNCERTAIN_BEFORE = (
    rf"{_CANNOT}(?:exclude|rule\s+out)\b",
    r"\b(?:difficult|hard|impossible|not\s+possible)\s+to\s+(?:exclude|rule\s+out)\b",
    r"\b(?:unclear|uncertain|not\s+certain|questionable)\s+(?:whether|if)\b",
    r"\b(?:rule\s+out|r/o|evaluate\s+for|evaluation\s+for|assess\s+for|assessment\s+for|query|question\s+of|\?)",
    r"\b(?:may|might|could|would)\s+(?:also\s+|well\s+|potentially\s+)?(?:represent|reflect|be|indicate|suggest|relate|"
    r"correspond|signify|have|still|mimic|include)\w*(?:\s+(?:due|related|secondary|attributable|attributed)\s+to\b)?",
    r"\b(?:possible|possibly|probable|probably|likely|presumably|presumed|presumptive|suspected|potential|potentially)\b",
    r"\b(?:suspicion|suspicious|concern|concerning|worrisome|worry)\s+(?:for|of)\b",
    r"\b(?:findings?|features?|signs?|changes?)\s+to\s+suggest\b",
    r"\b(?:(?<!to )suggest(?:s|ing|ed|ive)?|favor(?:s|ed|ing)?|favour(?:s|ed|ing)?)\b(?:\s+of\b)?",
    r"\b(?:questionable|equivocal|indeterminate\s+for|apparent)(?=\s)",
    r"\bpossibility\s+of\b",
    r"\braises?\s+(?:the\s+)?(?:possibility|question|concern|suspicion)\b",
    r"\bdifferential\b",
    r"\b(?:history\s+of|hx\s+of|diagnosed\s+with)\b",  # told, not seen
)
UNCERTAIN_AFTER = (
    rf"\b{_CANNOT}(?:be\s+)?(?:excluded|ruled\s+out)\b",
    r"\b(?:is|are|was|were)\s+not\s+(?:entirely\s+|completely\s+|definitively\s+)?(?:excluded|ruled\s+out)\b",
    r"\b(?:is|are|was|were|be|remains?)\s+(?:\w+ly\s+)?(?:difficult|hard|impossible|not\s+possible)\s+to\s+"
    r"(?:exclude|rule\s+out)\b(?=\s*(?:[.,;]|$|in\b|on\b|given\b|with\b))",
    r"\b(?:is|are|was|were)\s+(?:thought|felt|believed|considered)\s+(?:to\s+be\s+)?(?:likely|possible|probable|unlikely)\b",
    r"\b(?:is|are|was|were|remains?)\s+(?:suspected|questioned|considered|suggested|favou?red)\b",
    r",\s*if\s+(?:present|any)\b",
    r"\b(?:is|are|remains?|seems?)\s+(?:possible|probable|(?:less\s+)?likely|questionable|unlikely|a\s+possibility|"
    r"equivocal)\b(?!\s+to\b)",
    r"\b(?:may|might|could|should)\s+be\s+(?:present|considered|suspected|missed)\b",
)
EITHER = (r"\b(?:vs\.?|versus|favou?red\s+over)(?=\s)",)
"""Between two findings of which one is there."""

NEGATIVE_FIRST = (
    rf"\b(?:no\s+longer|not)\s+{_SEEN}\s+(?:is|are)\b",
    r"^\s*absent(?=\s+[a-z])",
    r"\bnothing\s+to\s+(?:suggest|indicate)\b",
)
"""Negations in front of their finding that read like those behind one."""

NEGATIVE_BEFORE = (
    r"\b(?:no|without|neither|nor|never|denies|lacks?)\b",
    r"\b(?:negative|clear|free)\s+(?:for|of)\b",
    r"\b(?:absence|resolution|clearing|removal|lack)\s+of\b",
    r"\b(?:rather\s+than|instead\s+of|excludes?|excluding|rules?\s+out\s+any)\b",
    r"\b(?:does|do|did|is|are|was|were|has|have|can)\s?(?:not|n't)\s+(?:clearly\s+|definitely\s+)?"
    r"(?:demonstrate|show|reveal|identify|see|have|include|suggest|contain|indicate|a\b|an\b|any\b)",
    r"\bfails?\s+to\s+(?:show|reveal|demonstrate)\b",
)
NEGATIVE_AFTER = (
    rf"\b(?:not|no\s+longer)\s+(?:definitely\s+|clearly\s+|well\s+|yet\s+)?(?:{_SEEN}|suspected|confirmed)\b",
    r"\b(?:absent|lacking|resolved|excluded|ruled\s+out|removed|withdrawn|extubated|replaced\s+(?:by|with))\b",
    r"\b(?:has|have)\s+(?:(?:since|now|completely|entirely|fully)\s+)*cleared\b",
    r":\s*(?:none|no|absent|negative|nil)(?=\s*(?:[.;,]|$))",
)

_BREAK = re.compile(
    r";|[.!?]\s|\b(?:but|however|although|though|except|while|whereas|yet|which|secondary\s+to|due\s+to|because|despite|notwithstanding)\b|"
    r"\bin\s+spite\s+of\b|\b(?:aside|apart)\s+from\b|\bother\s+than\b",
    re.IGNORECASE,
)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|remains?|appears?|shows?|demonstrates?|persists?)\b", re.IGNORECASE)
_STARTERS = (
    r"(?:there|a|an|the|its|small|tiny|trace|mild|moderate|large|severe|marked|stable|unchanged|persistent|again|minimal|"
    r"subtle|slight|left|right|bilateral|bibasilar|mildly|status|possible|probable|likely|residual|associated|"
    r"underlying|resulting|\w+ly)"
)
_NEW_ITEM = re.compile(rf"(?:,|\band\b|,\s*and\b|\bwith\b)\s+{_STARTERS}\b", re.IGNORECASE)
_COMMA = re.compile(r",\s*(?!and\b|or\b|nor\b)", re.IGNORECASE)
_OR = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue in a sentence: what it says of what stands after it (`forward`) or before it; None says nothing."""

    start: int
    end: int
    says: Assertion | None
    forward: bool


def _joined(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{one})" for one in patterns), re.IGNORECASE)


# In the order in which they claim characters: "cannot be excluded" must not be read as "not" or as "excluded".
_CUES: tuple[tuple[re.Pattern[str], Assertion | None, tuple[bool, ...]], ...] = (
    (_joined(PSEUDO), None, (True,)),
    (_joined(NEGATIVE_FIRST), "absent", (True,)),
    (_joined(UNCERTAIN_AFTER), "uncertain", (False,)),
    (_joined(EITHER), "uncertain", (True, False)),
    (_joined(UNCERTAIN_BEFORE), "uncertain", (True,)),
    (_joined(NEGATIVE_AFTER), "absent", (False,)),
    (_joined(NEGATIVE_BEFORE), "absent", (True,)),
)


def find_cues(sentence: str) -> list[Cue]:
    """Return the cues of a sentence; where two would share characters the first sort of `_CUES` has them."""
    taken: list[Span] = []
    cues = []
    for pattern, says, directions in _CUES:
        for match in pattern.finditer(sentence):
            versus = _is_versus(match[0])
            if any(start < match.end() and match.start() < end for start, end in taken):
                continue
            taken.append(match.span())
            both = (True, False) if versus else directions
            cues += [Cue(match.start(), match.end(), says, forward) for forward in both]
    return cues


def judge(sentence: str, start: int, end: int, cues: list[Cue]) -> Assertion:
    """Return what a sentence says of the mention at characters `[start, end)`: the nearest cue that reaches it."""
    reaching = []
    for cue in cues:
        if cue.says is None or (cue.start < end and start < cue.end):
            continue
        if cue.forward and cue.end <= start and _reaches_forward(sentence, cue.end, start):
            reaching.append((start - cue.end, cue))
        elif (
            not cue.forward
            and end <= cue.start
            and _reaches_backward(sentence, end, cue.start, _is_versus(sentence[cue.start : cue.end]))
        ):
            reaching.append((cue.start - end, cue))
    if not reaching:
        return "present"
    # what follows a finding ("cannot be excluded", "is not seen") judges it whatever stands before, unless far away
    after = [item for item in reaching if not item[1].forward]
    nearest = min(after or reaching, key=lambda item: item[0])[1]
    return nearest.says or "present"


def _reaches_forward(sentence: str, start: int, stop: int) -> bool:
    between = sentence[start:stop]
    if _BREAK.search(between):
        return False
    clause = _BREAK.split(sentence[start:])[0]
    if _VERB.search(between) and re.search(r",|\band\b", between):
        return False
    new_item = _NEW_ITEM.search(between)
    comma = _COMMA.search(between)
    if new_item and not _OR.search(clause[new_item.end() :]):
        return False
    if comma is None:
        return True
    # "no effusion, pneumothorax or edema" goes on; so does a bare list; "no effusion, the heart is large" does not
    return bool(_OR.search(clause[comma.end() :])) or not _VERB.search(clause[comma.end() :])


_ASIDE = re.compile(r",\s*(?:which|that)\b[^,;]*,", re.IGNORECASE)
_SAME_SUBJECT = re.compile(
    r"(?:,\s*)?\b(?:but|though|although|and|yet)\s+(?:(?:this|it|these|they)\b\s*|(?=(?:has|have|had|is|are|was|were)\b)|$)"
    r"[^,;]*$",
    re.IGNORECASE,
)
"""A second clause about what the first one named: "was seen before but has cleared", "..., but this cannot be excluded"."""
_OWN_VERB = re.compile(
    r"\s*\b(?:is|are|was|were|has|have|had|been|be|can|could|would|will|to|since|now|both|all|also|again|\w+ly)\s*$",
    re.IGNORECASE,
)


def _reaches_backward(sentence: str, start: int, stop: int, versus: bool) -> bool:
    between = _ASIDE.sub(" ", sentence[start:stop])
    same = _SAME_SUBJECT.search(between)
    if same:
        between = _VERB.sub(" ", between[: same.start()])
    if _BREAK.search(between) or re.search(r"\band\s+(?:there|the|a|an)\b", between, re.IGNORECASE):
        return False
    if versus and "," in between:
        return False  # "an opacity, atelectasis versus pneumonia": the opacity is there
    while own := _OWN_VERB.search(
        between
    ):  # the cue's own "is", "has been" end the stretch; other verbs are the mention's
        between = between[: own.start()]
    return not _VERB.search(between)


def _is_versus(text: str) -> bool:
    return bool(re.match(EITHER[0], f"{text} ", re.IGNORECASE))
