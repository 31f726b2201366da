"""Mentions from somebody else's extractor: scispaCy with UMLS linking, in the JSONL layout that ConceptCLIP published.

One line a caption: `{"caption": ..., "image": ..., "umls_meta_info": [{"umls_cui", "umls_similarity", "start_char",
"end_char", ...}]}`. `start_token` and `end_token` belong to another tokeniser and are not read: our loader finds tokens
from characters. The linker does not tell assertions, so the cues of `assertion.py` do; a CUI is the code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.config import ConfigError
from vlp.types import Mention

from .assertion import find_cues, judge
from .location import locate
from .report import split_sentences

SIMILARITY = 0.8
"""Links below this are dropped; the released sample of MedConcept-23M has none."""


@dataclass(frozen=True, slots=True)
class LinkedCaption:
    """A caption, the image it belongs to, and its mentions; `dropped` spans were weak, empty or outside the text."""

    image: str
    caption: str
    mentions: tuple[Mention, ...]
    dropped: int = 0


def read_linked(path: Path, similarity: float = SIMILARITY) -> Iterator[LinkedCaption]:
    """Yield the captions of a file, in order; raises ConfigError with the line for what is not of this layout.

    The minimised form, `[start, end]` instead of mappings, has no CUI and is refused: there would be no code.
    """
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _caption(line, f"{path}:{number}", similarity)


def _caption(line: str, where: str, similarity: float) -> LinkedCaption:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict) or "caption" not in record:
        raise ConfigError(f"{where}: expected a mapping with 'caption' and 'umls_meta_info'")
    caption = str(record["caption"])
    spans: list[tuple[int, int, str]] = []
    dropped = 0
    for item in record.get("umls_meta_info") or ():
        if not isinstance(item, dict):
            raise ConfigError(
                f"{where}: umls_meta_info holds {item!r}: the minimised form has no CUI, give the full file"
            )
        try:
            start, end, cui = int(item["start_char"]), int(item["end_char"]), str(item["umls_cui"])
            strong = float(item.get("umls_similarity", 1.0)) >= similarity
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{where}: umls_meta_info lacks a readable {error}: expected ConceptCLIP's keys"
            ) from None
        if strong and 0 <= start < end <= len(caption):
            spans.append((start, end, cui))
        else:
            dropped += 1
    return LinkedCaption(str(record.get("image", "")), caption, _mentions(caption, spans), dropped)


def _mentions(text: str, spans: list[tuple[int, int, str]]) -> tuple[Mention, ...]:
    found: list[Mention] = []
    for begin, stop in split_sentences(text):
        own = sorted({one for one in spans if begin <= one[0] and one[1] <= stop})
        places: list[Any] = locate(
            text[begin:stop], [(start - begin, end - begin) for start, end, _ in own], [False] * len(own)
        )
        cues = find_cues(text[begin:stop])
        for (start, end, cui), place in zip(own, places, strict=True):
            says = judge(text[begin:stop], start - begin, end - begin, cues)
            found.append(Mention(text[start:end], cui, start, end, says, place.side, place.zone))
    return tuple(found)
