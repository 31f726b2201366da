"""Reports as hospitals write them: find their sections and sentences, and, when asked, clean what was not dictated.

No language model and no training: headings (English, Spanish, German) and boilerplate are listed in `headings.yaml`, and a
report that follows none of them is one run of sentences (`statements.py`). Offsets are characters `[start, end)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vlp.core.config import config, read_yaml, validate
from vlp.sample import Report

from .answers import BOX, is_answer, is_bare_label
from .markup import plain_text
from .statements import MARK, MARKS, blank_trimmed, split_sentences


@config
class _Headings:
    """What `headings.yaml` holds: see the comments there."""

    sections: dict[str, str]
    boilerplate: tuple[str, ...]


_LISTED = validate(_Headings, read_yaml(Path(__file__).parent / "headings.yaml"), "headings.yaml")

CLINICAL = frozenset({"findings", "impression", "recommendation", "notification"})
"""Sections that speak of the image; what others name is asked for, remembered or compared, not seen."""

PRELIMINARY = frozenset({"indication", "technique", "comparison", "notification"})
"""Sections below which findings may stand without a heading."""

JOINED = frozenset({"findings", "impression"})
"""Sections that are put together where a report repeats them."""


def _unaccented(name: str) -> str:
    return name.translate(str.maketrans("áéíóúüñ", "aeiouun"))


_NAME_TO_SECTION = {
    spelled: section
    for section, names in _LISTED.sections.items()
    for name in names.split(" | ")
    for spelled in (name, _unaccented(name))
}
_NAMES = "|".join(
    re.escape(name).replace(r"\ ", r"\s{1,9}") for name in sorted(_NAME_TO_SECTION, key=len, reverse=True)
)
_HEADING = re.compile(
    rf"(?:^|(?<=\n)|(?<=[.!?]\s)|(?<=[.!?]\s\s))[ \t]{{0,80}}[#*]{{0,3}}[ \t]{{0,9}}(?P<name>{_NAMES})"
    r"[ \t]{0,9}\*{0,2}[ \t]{0,9}(?:(?P<colon>:)\*{0,2}|(?P<dash>[-–—]{1,2})(?=\s)|(?P<alone>(?=\r?\n|$)))",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile("|".join(f"(?:{pattern})" for pattern in _LISTED.boilerplate), re.IGNORECASE | re.DOTALL)
_MARKED = re.compile(rf"[(\[]\s{{0,9}}(?:(?:{MARKS})\s{{0,9}}){{1,9}}[)\]]", re.DOTALL)
"""Brackets with nothing but marks in them."""
_GAP = re.compile(r"\n[ \t]{0,99}\n\s{0,99}(?=\S)")


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
    text, _ = plain_text(text)
    text, blocks = _joined(text, find_blocks(text))
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
    is_capital = match["name"][0].isupper()
    return line_start or is_capital if match["colon"] else line_start and is_capital


def _untitled_findings(text: str, blocks: list[Block]) -> list[Block]:
    """Give a name to the paragraph below the last preliminary heading: many hospitals leave FINDINGS out."""
    if any(block.section == "findings" for block in blocks):
        return blocks
    for number, block in reversed(list(enumerate(blocks))):
        body = text[block.body : block.end].rstrip()
        gap = _GAP.search(body)
        if gap and not body[: gap.start()].strip():
            gap = _GAP.search(body, gap.end())
        if block.section in PRELIMINARY and gap:
            cut = block.body + gap.end()
            head = Block(block.section, block.start, block.body, cut)
            return [*blocks[:number], head, Block("findings", cut, cut, block.end), *blocks[number + 1 :]]
    return blocks


def _as_is(text: str, blocks: list[Block]) -> Report:
    sentences: list[tuple[int, int]] = []
    sections: dict[str, tuple[int, int]] = {}
    for block in blocks:
        sentences += split_sentences(text, block.body, block.end)
        _enter(sections, block.section, *blank_trimmed(text, block.body, block.end))
    return Report(text, tuple(sentences), sections)


def _joined(text: str, blocks: list[Block]) -> tuple[str, list[Block]]:
    """Put repeated findings, impressions and addenda together, in their order: a later one may not hide an earlier one.

    A text that repeats none is returned as it is.
    """
    groups: dict[str, list[Block]] = {}
    for number, block in enumerate(blocks):
        heading = text[block.start : block.body].lower()
        joins = block.section in JOINED or re.search(r"addend|nachtrag|anexo", heading)
        empty = not text[block.body : block.end].strip()
        groups.setdefault(block.section if joins and not empty else f"{number}", []).append(block)
    if len(groups) == len(blocks):
        return text, blocks
    parts: list[str] = []
    at = 0
    moved: list[Block] = []
    for members in groups.values():
        heading = text[members[0].start : members[0].body].strip()
        body = "\n".join(text[member.body : member.end].strip() for member in members)
        parts.append(f"{heading} {body}".strip())
        moved.append(Block(members[0].section, at, at + len(parts[-1]) - len(body), at + len(parts[-1])))
        at += len(parts[-1]) + 1
    return "\n".join(parts), moved


def _cleaned(text: str, blocks: list[Block]) -> Report:
    out: list[str] = []
    at = 0
    sentences: list[tuple[int, int]] = []
    sections: dict[str, tuple[int, int]] = {}

    def write(part: str) -> None:
        nonlocal at
        out.append(part)
        at += len(part)

    for block in blocks:
        found = [clean_sentence(text[start:end]) for start, end in split_sentences(text, block.body, block.end)]
        words = [sentence for sentence in found if sentence]
        if not words:
            continue
        heading = " ".join(text[block.start : block.body].replace("*", "").replace("#", "").split())
        write(("\n" if at else "") + (f"{heading.rstrip(' :-–—')}: " if heading else ""))
        begin = at
        for number, sentence in enumerate(words):
            if number:  # what a line's end separated needs a full stop on one line
                write(" " if words[number - 1][-1] in ".!?" else ". ")
            sentences.append((at, at + len(sentence)))
            write(sentence)
        _enter(sections, block.section, begin, at)
    return Report("".join(out), tuple(sentences), sections)


def _enter(sections: dict[str, tuple[int, int]], name: str, start: int, end: int) -> None:
    """Keep the longest of several sections of one name: of those that are not joined, such as history and indication."""
    old = sections.get(name, (0, 0))
    if name and end - start > old[1] - old[0]:
        sections[name] = (start, end)


def clean_sentence(sentence: str) -> str:
    """Return a sentence on one line without de-identification marks, empty when it is boilerplate or nothing is left."""
    if _BOILERPLATE.search(sentence):
        return ""
    label, *cells = re.split(r"\s*[\n\t|]\s*", sentence)
    if len(cells) == 1 and is_bare_label(label) and is_answer(cells[0]):
        sentence = f"{label.rstrip(':')}: {cells[0]}"
    text = " ".join(MARK.sub(" ", _MARKED.sub(" ", sentence)).split())
    text = re.sub(r"(?<=\S)\s([.,;:!)]|\?(?!\s?[^\W\d_]))", r"\1", text) if not BOX.search(text) else text
    text = re.sub(r"([,;:])(?=[.!?])", "", text).strip(" ,;-")
    return text if re.search(r"[^\W\d_]", text) else ""
