"""Mentions from another extractor: scispaCy with UMLS linking, in the JSONL layout that ConceptCLIP published.

One line a caption: `{"caption": ..., "image": ..., "umls_meta_info": [{"umls_cui", "umls_similarity", "start_char",
"end_char", ...}]}`. `start_token` and `end_token` belong to another tokeniser and are not read: our loader finds tokens
from characters. The linker does not tell assertions, so the cues of `negation.py` do; a CUI is the code.

The source `linked_concepts` reads images and captions from such a file; `--concepts FILE` of any other source takes from
it the mentions of the texts that it holds.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.untrusted import open_regular, parse_object
from vlp.sample import Mention, Report

from .location import place_mentions
from .negation import classify, find_cues
from .statements import split_sentences

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
    for where, _, line in _lines(path):
        yield _caption(line, where, similarity)


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield (place for messages, offset in bytes, line) of the lines that are not empty; raises ConfigError."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    with file:
        offset = 0
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", offset, line
            offset += len(line)


def _record(line: bytes, where: str) -> dict[str, Any]:
    record = parse_object(line, where)
    if "caption" not in record:
        raise ConfigError(f"{where}: expected a mapping with 'caption' and 'umls_meta_info'")
    return record


def _caption(line: bytes, where: str, similarity: float) -> LinkedCaption:
    record = _record(line, where)
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
        own = sorted({span for span in spans if begin <= span[0] and span[1] <= stop})
        places: list[Any] = place_mentions(
            text[begin:stop], [(start - begin, end - begin) for start, end, _ in own], [False] * len(own)
        )
        cues = find_cues(text[begin:stop])
        for (start, end, cui), place in zip(own, places, strict=True):
            says = classify(text[begin:stop], start - begin, end - begin, cues)
            found.append(Mention(text[start:end], cui, start, end, says, place.side, place.zone))
    return tuple(found)


class LinkedTexts:
    """The mentions of any text that a linker's file holds, whatever source the text comes from.

    A file may have many millions of lines: `prepare` sorts the hashes of its captions once into a file of 16 bytes a
    caption, which every worker maps; lines are read when they are asked for.
    """

    def __init__(self, path: Path, similarity: float = SIMILARITY) -> None:
        self._path, self._similarity = path, similarity
        self._index = Path()

    def fingerprint(self) -> str:
        """Return the sha256 of the file; raises ConfigError when it cannot be read."""
        try:
            with open_regular(self._path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"cannot read {self._path}: {error.strerror}") from None

    def prepare(self, folder: Path) -> None:
        """Write the index into a folder; raises ConfigError with the line for what is not of this layout."""
        self._index = folder / "linked.npy"
        if self._index.is_file():  # by an earlier run of this build, with the same fingerprint
            return
        places = [(_digest(str(_record(line, where)["caption"])), at) for where, at, line in _lines(self._path)]
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file:  # job arrays all write it
            np.save(file, np.array(sorted(places), np.uint64).reshape(-1, 2))
        os.replace(file.name, self._index)

    def unread(self, report: Report) -> str | None:
        """Return None: a linker's mentions stand beside their text, whatever its language."""

    def of_report(self, report: Report) -> tuple[Mention, ...]:
        """Return the mentions of the caption that is, white space at its ends aside, this report; () where none is."""
        index = np.load(self._index, mmap_mode="r")
        digest = np.uint64(_digest(report.text))
        row = int(np.searchsorted(index[:, 0], digest))
        while row < len(index) and index[row, 0] == digest:
            with open_regular(self._path) as file:
                file.seek(int(index[row, 1]))
                linked = _caption(file.readline(), str(self._path), self._similarity)
            if linked.caption.strip() == report.text.strip():
                shift = report.text.index(linked.caption.strip()) - linked.caption.index(linked.caption.strip())
                moved = (
                    replace(mention, start=mention.start + shift, end=mention.end + shift)
                    for mention in linked.mentions
                )
                return tuple(mention for mention in moved if mention.start >= 0)
            row += 1
        return ()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "big")
