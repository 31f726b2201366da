"""Which part of a sample's text is shown, and by which hashes samples are told to be equal. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlp.core.config import config
from vlp.sample import Mention, Sample, code_of, sentences, split_sentences

_FOLD = re.compile(r"[\W_]+")


@config
class TextView:
    """Which part of a report is shown beside the image.

    `field`: the whole report, one of its sections, or a caption (a random one in training, the first otherwise); where
    a sample lacks that field the report is shown, then a caption. In training, `sentence` shows one random sentence,
    and `subset` is the share of texts that are replaced by a random non-empty subset of their sentences, in order.
    """

    field: Literal["report", "findings", "impression", "captions"] = "report"
    subset: float = 0.0
    sentence: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.subset <= 1:
            raise ValueError(f"subset is a share of the texts, expected 0 to 1, found {self.subset}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A text as shown: its sentences as spans into it, and which stretches of the report it is made of.

    `pieces`: (start, end) in `Report.text` and where that stretch begins in `text`; none for a caption.
    """

    text: str
    sentences: tuple[tuple[int, int], ...]
    pieces: tuple[tuple[int, int, int], ...] = ()

    def place(self, start: int, end: int) -> tuple[int, int] | None:
        """Return where characters `[start, end)` of the report are in the text, None where they are not shown."""
        for first, last, begin in self.pieces:
            if first <= start and end <= last:
                return start - first + begin, end - first + begin
        return None

    def mentions(self, sample: Sample) -> list[Mention]:
        """Return the mentions of the sample's report that are shown."""
        return [mention for mention in sample.concepts if self.place(mention.start, mention.end) is not None]


def show(sample: Sample, view: TextView, rng: np.random.Generator | None) -> Shown:
    """Return the text of a sample that `view` asks for; random choices are drawn from `rng`, and None makes none."""
    report = sample.report
    if sample.captions and (view.field == "captions" or report is None or not report.text.strip()):
        caption = sample.captions[0 if rng is None else int(rng.integers(len(sample.captions)))]
        return _choose(caption, split_sentences(caption), view, rng, offset=None)
    if report is None:
        return Shown("", ())
    start, end = 0, len(report.text)
    if view.field in ("findings", "impression") and report.section(view.field).strip():
        start, end = report.sections[view.field]
    text = report.text[start:end]
    inside = [(first - start, last - start) for first, last in sentences(report) if start <= first and last <= end]
    return _choose(text, inside or split_sentences(text), view, rng, offset=start)


def _choose(
    text: str,
    spans: Sequence[tuple[int, int]],
    view: TextView,
    rng: np.random.Generator | None,
    offset: int | None,
) -> Shown:
    chosen: Sequence[int] | None = None
    if rng is not None and spans:
        if view.sentence:
            chosen = [int(rng.integers(len(spans)))]
        elif view.subset and rng.random() < view.subset:
            size = int(rng.integers(1, len(spans) + 1))
            chosen = sorted(int(place) for place in rng.choice(len(spans), size, replace=False))
    if chosen is None:
        return Shown(text, tuple(spans), () if offset is None else ((offset, offset + len(text), 0),))
    parts, shown, pieces, at = [], [], [], 0
    for index in chosen:
        first, last = spans[index]
        parts.append(text[first:last])
        shown.append((at, at + last - first))
        if offset is not None:
            pieces.append((first + offset, last + offset, at))
        at += last - first + 1
    return Shown(" ".join(parts), tuple(shown), tuple(pieces))


def group_of(sample: Sample) -> tuple[int, int]:
    """Return the two hashes by which samples are told to be equal: of the study, and of what is said.

    The study's falls back to the key. What is said is the report (or the captions) in lower case with white space and
    punctuation folded, so that two normal reports that differ by a comma are equal; where nothing is said, the key.
    """
    key = f"key\0{sample.source}\0{sample.key}"
    study = code_of(f"study\0{sample.source}\0{sample.study}" if sample.study else key)
    text = sample.report.text if sample.report else " ".join(sample.captions)
    folded = _FOLD.sub(" ", text.casefold()).strip()
    return study, code_of(f"text\0{folded}" if folded else key)
