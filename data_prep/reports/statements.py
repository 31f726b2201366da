"""Where a statement of a report ends: at a full stop, and at whatever a template uses instead of one.

A line, a bullet, a number, a bar, a tab or a full stop without a blank ends a statement, and with it the reach of a "no".
A line that is only wrapped does not: it ends with a word that wants another ("no", "of the"), or the next one begins
with "or", or in lower case where lines begin in upper case. Every look around a place is bounded, and so is a statement:
the time is linear in the length of the text, whatever stands in it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from vlp.core.words import words

from .answers import is_answer, is_answered, is_bare_label, is_label, split_boxes

LONGEST = 1000
"""Characters of a statement; what has no end in so many is cut at a comma or a blank."""
LOOK = 120
"""Characters that are looked at before and after a place."""
WRAPPED = 50
"""Characters of a line below which text without upper and lower case is not taken for wrapped."""
NARROW = 30
"""The same of text with them."""

ABBREVIATIONS = words(
    "dr mr mrs ms prof st vs approx ca cf e.g i.e eg ie fig no nos resp inc dept hosp m.d r.n p.a a.m p.m a.p l.l u.s "
    "jr sr ph.d d.o sec sect vol est "
    "dra sra srta aprox ej núm num pág "
    "bzw ggf evtl inkl sog z.b u.a d.h v.a o.g z.n usw med dipl nr tel"
)

MARKS = r"\[\*\*.{0,200}?\*\*\]|_{2,}|\bX{4,}\b|\[(?:REDACTED|removed|deid[^\]]{0,60})\]|<(?:NAME|DATE|PHI|ID)>"
"""What de-identification leaves behind."""
MARK = re.compile(MARKS, re.DOTALL)

_OPEN_END = words(
    "no not without any the a an of and or nor with in on at to for from by as is are was were be been has have "
    "this that these its than evidence per via "
    "sin ni un una unos unas el los las de del y e o u con en al por para que se es son su sus "
    "kein keine keinen keinem keiner keines ohne nicht der die das des dem den ein eine einen einem einer eines und oder "
    "sowie mit von vom zu zum zur im am auf bei für als ist sind kleiner kleine großer große"
)
"""Words that want another: a line or a cell that ends with one goes on."""
_OPEN_LOWER = words(
    "focal pleural small large mild moderate severe acute definite significant discrete obvious new other pulmonary "
    "interstitial frank overt pericardial mediastinal"
)
"""The same where the next line begins in lower case."""
_JOINING = words(
    "or nor and with without of in on at to for by from is are was were has have which that than as "
    "y e o u ni con de del en al por que und oder sowie mit von vom im am auf bei"
)
"""Words that a statement does not begin with."""
_STARTING = words(
    "no there large small mild moderate severe minimal tiny trace massive marked stable unchanged normal enlarged "
    "sin kein keine"
)
"""Words with which a line in lower case begins a statement of its own."""
_ARTICLES = frozenset({"der", "die", "das", "den", "dem", "des", "am", "im", "vom", "zum", "zur"})

_BULLETS = "•▪■●◦‣►➢➤▶∙"
_SEPARATOR = re.compile(
    r"[ \t]{0,100}\n\s{0,100}|[ ]{0,20}[|¦][ |¦]{0,100}|[ ]{0,20}\t[ \t]{0,100}|[ ]{3,100}(?=[^\W\d_a-z])|"
    rf"[ ]{{0,20}}[{_BULLETS}][ ]{{0,20}}|(?<=[a-z.])[ ]{{1,3}}[·○][ ]{{1,3}}|[ ]\*[ ](?=[A-Z])|"
    r"[ ]{1,3}/{1,2}[ ]{1,3}(?=[A-Z])"
)
_BULLET = re.compile(rf"[ \t]*(?:[-*+–—>{_BULLETS}·○]|o(?= [A-Z])|#?\(?\d{{1,2}}[.):]|\(?[a-hA-H]\))[ \t]*(?=[^\s\d])")
_RULE = re.compile(r"[ \t]*[_=*-]{5,}[ \t]*(?=\n|$)")
_DASH = re.compile(r"[ ][-–—][ ](?=[A-Z])")
_NUMBERED = re.compile(r"(?:(?<=[\s.;,])|(?<![^\n])|(?=\())\(?(\d{1,2})[.)](?=\s{0,3}[^\W\d_])")
_LETTERED = re.compile(r"(?:(?<=[\s.;,])|(?<![^\n]))\(?([a-h])\)(?=\s{0,3}[^\W\d_])")
_NUMBERING = re.compile(
    rf"\s*(?:#?\(?\d{{1,2}}[.)](?!\d)|\d{{1,2}}:(?=\s)|[-*+–—>{_BULLETS}·○](?=\s|[^\W\d_])|#\d{{1,2}}[.:]?(?=\s)|\(?[a-h]\)(?=\s)|"
    r"[|¦])\s*"
)
_STOP = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|[.!?]+(?=[^\W\d_])|(?<=[^\W\d_])\.(?=\d)")
_WORD_BEFORE = re.compile(r"\S*$")
_LETTER = re.compile(r"[^\W\d_]")
_ADDRESS = re.compile(r"@|://|^www\.|\.(?:com|org|net|edu|gov|de|es|png|jpe?g|dcm|pdf|txt)\b", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[^\w\[(]*([^\W\d_]+)")
_LAST_WORD = re.compile(r"([^\W\d_]+)[^\w.:;!?)\]]*$")


def split_sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Return the spans of the statements in `text[start:end]`, numbering and bullets left out.

    A stop ends one unless it belongs to an abbreviation ("Dr. Smith"), an initial, a number ("2.5 cm"), the number of an
    item, or a de-identification mark. No span is longer than `LONGEST`; linear in the length of the text.
    """
    end = len(text) if end is None else end
    spans: list[tuple[int, int]] = []
    marks = [match.span() for match in MARK.finditer(text, start, end)]
    for first, last in _items(text, start, end):
        for begin, stop in _sentences(text, first, last, marks):
            for piece in split_boxes(text, begin, stop):
                spans += _shortened(text, *_trim(text, *piece))
    return [span for span in spans if _LETTER.search(text, *span)]


def _items(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans between separators, where these end a statement, cut at numbers that count up."""
    cased = _has_case(text, start, end)
    begin, line = start, start
    for match in _SEPARATOR.finditer(text, start, end):
        broken = "\n" in match[0]
        if match.start() > begin and _goes_on(text, begin, line, match, end, cased):
            line = match.end() if broken else line
            continue
        yield from _counted(text, begin, match.start())
        begin = match.end()
        line = begin if broken else line
    yield from _counted(text, begin, end)


def _has_case(text: str, start: int, end: int) -> bool:
    """Tell whether lines that begin in lower case are wrapped ones: there is lower case, and some line begins in upper."""
    lines = re.finditer(r"(?:^|\n)\W{0,20}([^\W\d_])[^\n]{0,3}", text[start:end])
    return any(line[1].isupper() for line in lines) and bool(re.search(r"[a-z]{3}", text[start:end]))


def _goes_on(text: str, begin: int, line: int, separator: re.Match[str], end: int, cased: bool) -> bool:
    """Tell whether a statement goes on behind a separator."""
    mark = separator[0]
    if mark.count("\n") > 1 or any(bullet in mark for bullet in _BULLETS):
        return False
    before = text[max(begin, separator.start() - LOOK) : separator.start()]
    after = text[separator.end() : min(end, separator.end() + LOOK)]
    cell = re.split(r"[\n|\t]", after, maxsplit=1)[0]
    if is_answer(before) or is_answered(before):
        return False
    if is_answer(cell) and is_bare_label(before):
        return True
    if "\n" in mark and (_BULLET.match(after) or _RULE.match(after)):
        return False
    if before.rstrip().endswith(":"):
        return not is_label(after)
    found, ending = _FIRST_WORD.match(after), _LAST_WORD.search(before)
    last, first = ending[1].lower() if ending else "", found[1] if found else ""
    if last in _OPEN_END and not is_label(after):
        return True
    if not found or not first or is_label(after):
        return False
    if first.lower() in _JOINING and not (cased and first.istitle() and len(first) > 1):
        return "\n" in mark
    if "\n" not in mark:
        return False
    wide = separator.start() - line
    if not cased:
        return before.rstrip().endswith(",") or (wide >= WRAPPED and first.lower() not in _STARTING)
    if not first[0].islower():
        return False
    if last in _OPEN_LOWER or before.rstrip().endswith(","):
        return True
    return wide >= NARROW and first not in _STARTING


def _counted(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut an item at the numbers 1, 2, 3, letters a, b, c, or dashes before capitals in it, if it has two of them."""
    dashes = [match.start() for match in _DASH.finditer(text, start, end)]
    cuts: list[int] = dashes if len(dashes) > 1 else []
    for pattern, first in ((_NUMBERED, 1), (_LETTERED, ord("a"))):
        wanted, found = first, []
        for match in pattern.finditer(text, start, end):
            value = int(match[1]) if match[1].isdigit() else ord(match[1])
            if value == wanted:
                found.append(match.start())
                wanted += 1
        cuts += found if len(found) > 1 else []
    edges = [start, *sorted(cut for cut in cuts if cut > start), end]
    yield from pairwise(edges)


def _sentences(text: str, start: int, end: int, marks: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = start
    for stop in _STOP.finditer(text, start, end):
        place = bisect_right(marks, (stop.start(), len(text))) - 1
        inside = place >= 0 and marks[place][0] <= stop.start() < marks[place][1]
        if not inside and _ends_sentence(text, begin, stop, end):
            yield begin, stop.end()
            begin = stop.end()
    yield begin, end


def _ends_sentence(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    before = text[max(begin, stop.start() - LOOK) : stop.start()]
    after = text[stop.end() : min(end, stop.end() + LOOK)]
    glued = bool(after) and not after[0].isspace()
    after = after.lstrip(" \t")
    line = after.split("\n")[0]
    after = after.lstrip()
    found = _WORD_BEFORE.search(before)
    word = found[0].lstrip("(\"'[") if found else ""
    if stop[0].startswith("?") and not before[-1:].strip() and _LETTER.match(after) and not is_answer(line):
        return False  # "? effusion"
    if len(stop[0]) > 2 and is_answer(re.split(r"[.;]", line)[0]):
        return False  # "Effusion ...... none"
    if stop[0][0] != ".":
        label = stop[0].startswith("?") and is_answer(line)
        return not (label and not re.match(r"\s*(?:is|are|was|were|any|does|do)\b", before, re.IGNORECASE))
    if not word or re.fullmatch(r"\s*\(?\d{1,2}", before):
        return False  # the number of an item
    if not after:
        return True
    if word.lower() in ABBREVIATIONS:
        # "No." ends a sentence when nothing is numbered by it
        return word.lower() in ("no", "nos") and not after[0].isdigit() and not glued
    if glued:
        return _ends_glued(word, stop[0], after)
    if re.fullmatch(r"[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]", word):
        return False
    if re.fullmatch(r"\d{1,2}", word) and _follows_article(before):
        return False  # "der 3. Rippe"
    if after[0].islower():
        return len(word) > 2 and word.isalpha() and not re.match(r"(?:and|or|of|with|to)\b", after)
    return True


def _ends_glued(word: str, stop: str, after: str) -> bool:
    """Tell whether "pneumothorax.Large" is two statements, and "www.hospital.org", "e.g.pneumonia", "T.2" are none."""
    token = f"{word}{stop}{after.split()[0]}"
    last = re.search(r"[^\W\d_]+$", word.rpartition(".")[2] or word)
    if _ADDRESS.search(token) or last is None:
        return False
    if after[0].isdigit():
        return len(last[0]) > 2
    following = re.match(r"[^\W\d_]+", after)
    length = len(following[0]) if following else 0
    if after[0].isupper() and not last[0].isupper():
        return len(last[0]) > 1 and (length > 1 or after[1:2].isspace())
    return len(last[0]) > 2 and length > 1 and (length > 2 or after[0].isupper())


def _follows_article(before: str) -> bool:
    words = before.split()
    return len(words) > 1 and words[-2].lower() in _ARTICLES


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Move a span past white space and numbering."""
    numbering = _NUMBERING.match(text, start, end)
    while numbering and numbering.end() > start:
        start = numbering.end()
        numbering = _NUMBERING.match(text, start, end)
    return blank_trimmed(text, start, end)


def blank_trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _shortened(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a span into pieces of at most `LONGEST` characters, at the last comma, else the last blank."""
    while end - start > LONGEST:
        limit = start + LONGEST
        comma = text.rfind(", ", start + LONGEST // 2, limit) + 1
        cut = comma or max((text.rfind(blank, start + LONGEST // 2, limit) for blank in " \n\t"), default=-1)
        cut = cut if cut > start else limit
        first, last = blank_trimmed(text, start, cut)
        if first < last:
            yield first, last
        start = cut
    first, last = blank_trimmed(text, start, end)
    if first < last:
        yield first, last
