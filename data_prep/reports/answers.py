"""Answers and check boxes of template reports: `Pneumothorax: none`, `Effusion - small`, `[x] Effusion`, `☐ Pneumothorax`.

The words are those of English, Spanish and German, since a template mixes them and none means the opposite elsewhere.
"""

from __future__ import annotations

import re

from vlp.sample import Assertion

_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|visible|evident|present|appreciated|demonstrated|noted|detected|observed|found|shown|"
    r"suspected|apparent|significant|today|at\s+this\s+time|bilaterally|nachweisbar|sichtbar|erkennbar|abgrenzbar|gesehen|"
    r"visibles?|evidentes?|significativ[oa]s?|presentes?|vorhanden)"
)
_END = r"(?=\s*(?:[.;,)\]|\[☐☑☒□]|$))"
_NO = (
    rf"(?:none|no|not|nil|negative|neg|absent|absence|nope|false|denied|excluded|resolved|ruled\s+out|clear|"
    rf"no\s+evidence|ningun[oa]?|ausentes?|ausencia|negativ[oa]?s?|descartad[oa]s?|nein|kein(?:e|er|es)?|nicht|negativ|"
    rf"fehlend|fehlt|ausgeschlossen|unauff[äa]llig)(?:\s+{_SEEN})*"
)
_YES = (
    r"(?:yes|present|positive|pos|true|seen|identified|visible|s[ií]|presentes?|positiv[oa]s?|visibles?|ja|vorhanden|positiv|"
    r"nachweisbar|sichtbar)"
)
_OPEN = (
    r"(?:possible|possibly|probable|questionable|equivocal|indeterminate|uncertain|unclear|unknown|suspected|likely|\?+|"
    r"n/?a|not\s+(?:assessed|evaluated|applicable|reported|included|well\s+seen|stated)|posible|probable|dudos[oa]|"
    r"indeterminad[oa]|no\s+valorables?|m[öo]glich|fraglich|unklar|nicht\s+(?:beurteilbar|beurteilt)|verd[äa]chtig)"
)
_BETWEEN = r"(?:\s*[:=?]{1,2}\s*|\s+[-–—]{1,2}\s*|\s*\.{3,}\s*)"

_WORDS: tuple[tuple[str, Assertion], ...] = ((_OPEN, "uncertain"), (_NO, "absent"), (_YES, "present"))
_SIGNS: tuple[tuple[str, Assertion], ...] = (
    # "Pneumothorax none"
    (r"\s+(?:none|nil|neg|negativ[eoa]?|ningun[oa])(?:\s+(?:seen|identified|present))?\s*[.;,]?\s*$", "absent"),
    (r"\s*\([-–—−]\)", "absent"),
    (r"\s*\(\+{1,3}\)", "present"),
)
ANSWERS = tuple(
    (re.compile(rf"(?:{_BETWEEN}|\(\s*){words}{_END}", re.IGNORECASE), says) for words, says in _WORDS
) + tuple((re.compile(pattern, re.IGNORECASE), says) for pattern, says in _SIGNS)
"""What may stand behind the name of a finding, and what it says of it; the first that matches holds."""

_ALONE = re.compile(rf"\s*(?:{_OPEN}|{_NO}|{_YES})\s*[.;,]?\s*", re.IGNORECASE)
_ANSWERED = re.compile(rf"(?:{_BETWEEN}|[|\t\n]\s*)(?:{_OPEN}|{_NO}|{_YES})\s*$", re.IGNORECASE)
_BARE = re.compile(
    r"\s*(?!.*\b(?:no|not|without|any|sin|kein\w*|ohne|is|are|was|were|seen|hay|ist|sind|of|de|with|con|mit)\b)"
    r"[^\W\d_][\w ,/()'’-]{1,60}[:=?|]?\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\s*[^\W\d_][^:=?\n|\t.;]{0,60}(?:[:=?]|\s[-–—]\s)")

BOX = re.compile(r"\[[ _xX✓✔]?\]|\([ xX]\)|[☐☑☒✓✔✅✗✘❌□]")
_TICKED = frozenset("xX✓✔☑☒✅")


def is_answer(text: str) -> bool:
    """Tell whether a cell or a line is an answer and nothing else."""
    return bool(_ALONE.fullmatch(text))


def is_answered(text: str) -> bool:
    """Tell whether a stretch of text ends with a label's answer: "Pneumothorax: no"."""
    return bool(_ANSWERED.search(text))


def is_bare_label(text: str) -> bool:
    """Tell whether a cell or a line may be a label that waits for its answer: a few words that say nothing."""
    return bool(_BARE.fullmatch(text))


def is_label(text: str) -> bool:
    """Tell whether a text begins with a label: "Pleural effusion: ..."."""
    return bool(_LABEL.match(text))


def split_boxes(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut `text[start:end]` so that each check box is in a statement with what it belongs to."""
    boxes = list(BOX.finditer(text, start, end))
    if not boxes:
        return [(start, end)]
    head = text[start : boxes[0].start()]
    if re.search(r"[^\W\d_]", head):
        if len(boxes) == 1 and not head.rstrip().endswith(":"):
            return [(start, end)]
        if _options(text, boxes, end) is not None:
            return [(start, end)]
        if not re.search(r"[^\W\d_]", text[boxes[-1].end() : end]):  # "Effusion [x] Pneumothorax [ ]"
            ends = [box.end() for box in boxes]
            return list(zip([start, *ends[:-1]], ends, strict=True))
    starts = [box.start() for box in boxes]
    lead = [(start, starts[0])] if re.search(r"[^\W\d_]", head) else []
    return [*lead, *zip(starts, [*starts[1:], end], strict=True)]


def _options(text: str, boxes: list[re.Match[str]], end: int) -> list[str] | None:
    """Return what stands behind each box where these are the answers to choose from, else None."""
    ends = [*(box.start() for box in boxes[1:]), end]
    options = [text[box.end() : stop].strip(" \t.,;/|") for box, stop in zip(boxes, ends, strict=True)]
    short = all(0 < len(option.split()) <= 3 for option in options)
    return options if short and any(is_answer(option) for option in options) else None


def ticked(statement: str) -> Assertion | None:
    """Return what the check boxes of a statement say of all that it names, None where it has none.

    An empty box says "absent"; a ticked one "present", that is what the words beside it say.
    """
    boxes = list(BOX.finditer(statement))
    if not boxes:
        return None
    marks = [bool(_TICKED & set(box[0])) for box in boxes]
    options = _options(statement, boxes, len(statement))
    if options is not None and re.search(r"[^\W\d_]", statement[: boxes[0].start()]):
        chosen = [option for option, mark in zip(options, marks, strict=True) if mark]
        if len(chosen) != 1:
            return "uncertain"
        found = [says for pattern, says in ANSWERS if pattern.fullmatch(f": {chosen[0]}")]
        return found[0] if found else "present"
    return "present" if any(marks) else "absent"
