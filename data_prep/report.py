"""Reports as hospitals write them: find their sections and sentences, and, when asked, clean what nobody dictated.

English only. No language model and no training: headings, numbering, abbreviations and de-identification marks are
listed below, and a report that follows none of them is one run of sentences. Offsets are characters `[start, end)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlp.types import Report

SECTIONS = {
    "findings": ("findings", "finding", "report", "description", "body of report", "chest findings"),
    "impression": (
        "impression",
        "impressions",
        "final impression",
        "conclusion",
        "conclusions",
        "opinion",
        "summary",
        "assessment",
        "interpretation",
        "diagnosis",
        "impression and plan",
        "findings and impression",
        "findings/impression",
        "impression/plan",
    ),
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "reason for exam",
        "reason for examination",
        "reason for study",
        "reason for this examination",
        "clinical information",
        "clinical history",
        "clinical details",
        "history",
        "patient history",
        "medical condition",
        "underlying medical condition",
    ),
    "technique": (
        "technique",
        "procedure",
        "exam",
        "examination",
        "exam type",
        "type of examination",
        "study",
        "views",
        "projection",
        "procedure comments",
    ),
    "comparison": (
        "comparison",
        "comparisons",
        "comparison study",
        "prior study",
        "prior studies",
        "comparative study",
    ),
    "recommendation": ("recommendation", "recommendations", "plan", "follow-up"),
    "notification": ("notification", "wet read", "addendum", "provisional findings impression (pfi)", "final report"),
}
"""Section -> what its heading may be called, in any case."""

CLINICAL = frozenset({"findings", "impression", "recommendation", "notification"})
"""Sections that speak of the image; what others name is asked for, remembered or compared, not seen."""

ABBREVIATIONS = frozenset(
    [
        "dr",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "vs",
        "approx",
        "ca",
        "cf",
        "e.g",
        "i.e",
        "eg",
        "ie",
        "fig",
        "no",
        "nos",
        "resp",
        "inc",
        "dept",
        "hosp",
        "m.d",
        "r.n",
        "p.a",
        "a.m",
        "p.m",
        "a.p",
        "l.l",
        "u.s",
        "jr",
        "sr",
        "ph.d",
        "d.o",
        "sec",
        "sect",
        "vol",
        "est",
    ]
)

BOILERPLATE = (
    r"^\W*final report\W*$",
    r"\b(?:electronically|digitally) (?:signed|approved|verified|authenticated)\b",
    r"\b(?:dictated|transcribed|typed|signed|approved|interpreted|reported) (?:by|on|at)\b",
    r"\battending (?:radiologist|physician)\b.*\breview",
    r"\b(?:reviewed|read) (?:by|with) (?:the )?(?:attending|staff|resident)\b",
    r"\bi(?:, the [^,]*,)? have (?:personally )?(?:reviewed|viewed|examined|interpreted)\b",
    r"\b(?:discussed|communicated|telephoned|conveyed|relayed|reported|paged|called)\b.*\b(?:dr\b|doctor|physician|nurse"
    r"|by (?:tele)?phone|via (?:tele)?phone|with the (?:referring|ordering|clinical))",
    r"\b(?:dragon|powerscribe|voice[- ]recognition|speech[- ]recognition)\b",
    r"^\W*(?:page \d+(?: of \d+)?|end of report|preliminary report|unofficial report)\W*$",
    r"\bplease (?:call|contact|page)\b.*\b(?:question|radiolog)",
)
"""Sentences that say nothing of the image."""

MARKS = r"\[\*\*.*?\*\*\]|_{2,}|\bX{4,}\b|\[(?:REDACTED|removed|deid[^\]]*)\]|<(?:NAME|DATE|PHI|ID)>"
"""What de-identification leaves behind."""

_NAME_TO_SECTION = {name: section for section, names in SECTIONS.items() for name in names}
_NAMES = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in sorted(_NAME_TO_SECTION, key=len, reverse=True))
_HEADING = re.compile(
    rf"(?:^|(?<=\n)|(?<=[.!?]\s)|(?<=[.!?]\s\s))[ \t]*[#*]{{0,3}}[ \t]*(?P<name>{_NAMES})[ \t]*\*{{0,2}}[ \t]*"
    r"(?:(?P<colon>:)\*{0,2}|(?P<dash>[-–—]{1,2})(?=\s)|(?P<alone>(?=\r?\n|$)))",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"\s*(?:\(?\d{1,2}[.)](?!\d)|[-*•·]|#\d{1,2}[.:]?)\s+")
_STOP = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_ITEM = re.compile(
    r"\n\s*\n|\n[ \t]*[_=-]{5,}[ \t]*(?=\n|$)|\n(?=[ \t]*(?:\(?\d{1,2}[.)](?!\d)|[-*•·])[ \t])|\s(?=\(?\d{1,2}\)\s+[A-Za-z])"
)
_BOILERPLATE = re.compile("|".join(f"(?:{one})" for one in BOILERPLATE), re.IGNORECASE | re.DOTALL)
_MARK = re.compile(MARKS, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a report under one heading: `[start, body)` is the heading, `[body, end)` what stands below it."""

    section: str
    start: int
    body: int
    end: int


def parse_report(text: str, clean: bool = False) -> Report | None:
    """Return a report with its sections and sentences, or None where there is nothing to read.

    With `clean`, numbering, de-identification marks (`___`, `[**...**]`, `XXXX`), line breaks inside sentences and
    boilerplate (signatures, who was telephoned) are taken out first; spans fit the returned text either way.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\ufeff \t\n\v\f\x00")
    blocks = find_blocks(text)
    report = _cleaned(text, blocks) if clean else _as_is(text, blocks)
    return report if re.search(r"[^\W\d_]", report.text) else None


def find_blocks(text: str) -> list[Block]:
    """Cut a text at its headings; text before the first one is a block of section ""."""
    found = [match for match in _HEADING.finditer(text) if _is_heading(match)]
    starts = [match.start() for match in found] + [len(text)]
    blocks = [Block("", 0, 0, starts[0])] if text[: starts[0]].strip() else []
    for match, end in zip(found, starts[1:], strict=True):
        name = " ".join(match["name"].lower().split())
        blocks.append(Block(_NAME_TO_SECTION[name], match.start(), match.end(), end))
    return _untitled_findings(text, blocks)


def _is_heading(match: re.Match[str]) -> bool:
    """Tell a heading from a sentence that happens to hold its word, such as "Report - see above" within a line."""
    line_start = match.start() == 0 or match.string[match.start() - 1] == "\n"
    if match["colon"]:
        return line_start or match["name"][0].isupper()
    if match["dash"]:
        return line_start and match["name"][0].isupper()
    return line_start and match["name"][0].isupper()


def _untitled_findings(text: str, blocks: list[Block]) -> list[Block]:
    """Give a name to the paragraph below the last preliminary heading: many hospitals leave FINDINGS out."""
    if any(block.section == "findings" for block in blocks):
        return blocks
    if not any(block.section in ("indication", "technique", "comparison", "notification") for block in blocks):
        return blocks
    for number in reversed(range(len(blocks))):
        block = blocks[number]
        gap = re.search(r"\S[^\n]*\n[ \t]*\n\s*(?=\S)", text[block.body : block.end])
        if block.section in ("indication", "technique", "comparison", "notification") and gap:
            cut = block.body + gap.end()
            head = Block(block.section, block.start, block.body, cut)
            return [*blocks[:number], head, Block("findings", cut, cut, block.end), *blocks[number + 1 :]]
    return blocks


def split_sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Return the spans of the sentences in `text[start:end]`, numbering and bullets left out.

    A stop ends a sentence unless it belongs to an abbreviation ("Dr. Smith"), an initial, a number ("2.5 cm"), the
    number of an item, or a de-identification mark. Blank lines and items end one too; other line breaks do not.
    """
    end = len(text) if end is None else end
    spans = []
    for first, last in _items(text, start, end):
        marks = [match.span() for match in _MARK.finditer(text, first, last)]
        begin = first
        for stop in _STOP.finditer(text, first, last):
            inside = any(one <= stop.start() < other for one, other in marks)
            if not inside and _ends_sentence(text, begin, stop, last):
                spans.append((begin, stop.end()))
                begin = stop.end()
        spans.append((begin, last))
    trimmed = (_trim(text, *span) for span in spans)
    return [span for span in trimmed if re.search(r"[^\W\d_]", text[slice(*span)])]


def _items(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = start
    for match in _ITEM.finditer(text, start, end):
        yield begin, match.start()
        begin = match.end()
    yield begin, end


def _ends_sentence(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    if stop[0][0] != ".":
        return True
    before = text[begin : stop.start()].split()
    word = before[-1].lstrip("(\"'[") if before else ""
    after = text[stop.end() : end].lstrip()
    if not word or re.fullmatch(r"\(?\d{1,2}", text[begin : stop.start()].strip()):
        return False  # the number of an item
    if not after:
        return True
    if word.lower() in ABBREVIATIONS:
        # "No." ends a sentence when nothing is numbered by it
        return word.lower() in ("no", "nos") and not after[0].isdigit()
    if re.fullmatch(r"[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]", word):
        return False
    if after[0].islower():
        return len(word) > 2 and word.isalpha() and not re.match(r"(?:and|or|of|with|to)\b", after)
    return True


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Move a span past white space and numbering."""
    numbering = _NUMBERING.match(text, start, end)
    while numbering:
        start = numbering.end()
        numbering = _NUMBERING.match(text, start, end)
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _as_is(text: str, blocks: list[Block]) -> Report:
    sentences: list[tuple[int, int]] = []
    sections: dict[str, tuple[int, int]] = {}
    for block in blocks:
        sentences += split_sentences(text, block.body, block.end)
        start, end = block.body, block.end
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        _enter(sections, block.section, start, end)
    return Report(text, tuple(sentences), sections)


def _cleaned(text: str, blocks: list[Block]) -> Report:
    out = ""
    sentences: list[tuple[int, int]] = []
    sections: dict[str, tuple[int, int]] = {}
    for block in blocks:
        words = [clean_sentence(text[start:end]) for start, end in split_sentences(text, block.body, block.end)]
        words = [one for one in words if one]
        if not words:
            continue
        heading = " ".join(text[block.start : block.body].replace("*", "").replace("#", "").split())
        out += ("\n" if out else "") + (f"{heading.rstrip(' :-–—')}: " if heading else "")
        begin = len(out)
        for number, one in enumerate(words):
            out += " " if number else ""
            sentences.append((len(out), len(out) + len(one)))
            out += one
        _enter(sections, block.section, begin, len(out))
    return Report(out, tuple(sentences), sections)


def _enter(sections: dict[str, tuple[int, int]], name: str, start: int, end: int) -> None:
    """Keep the longest of several sections of one name (an addendum repeats them)."""
    old = sections.get(name, (0, 0))
    if name and end - start > old[1] - old[0]:
        sections[name] = (start, end)


def clean_sentence(sentence: str) -> str:
    """Return a sentence on one line without de-identification marks, empty when it is boilerplate or nothing is left."""
    if _BOILERPLATE.search(sentence):
        return ""
    text = " ".join(_MARK.sub(" ", sentence).split())
    text = re.sub(r"\(\s*\)|\[\s*\]", "", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text)
    text = re.sub(r"([,;:])(?=[.!?])", "", text).strip(" ,;-")
    return text if re.search(r"[^\W\d_]", text) else ""
