"""The pairs of a retrieval task, and which are right answers: an image's own texts, and what else the task says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlp.core.registry import did_you_mean
from vlp.sample import Sample

from ...data.dataset import Data
from ...data.spec import DataError

Ints = NDArray[np.int64]
Which = Literal["report", "findings", "impression", "caption"]
OWN = ("patient", "study", "key")


@dataclass(frozen=True)
class Pool:
    """Pairs [n] of a record and a text, those of a record side by side: an image [I] has one text or more.

    An image and a text belong together when a record of the image's group has the text. So all that one group holds is
    right, and so are equal texts of several groups, but not what else these hold. `groups` [n] and `spelt` [n] are int codes
    of groups and of texts, from 0 in order of first occurrence; a record is of one group. `repeats`: how many records (of
    texts: pairs) were left out as repeats of another in the column that is to be distinct.
    """

    indices: list[int]
    texts: list[str]
    groups: Ints
    spelt: Ints
    repeats: int = 0

    @cached_property
    def starts(self) -> Ints:
        """Return the first pair of each image [I]."""
        records = np.asarray(self.indices, dtype=np.int64)
        return np.asarray(np.flatnonzero(np.r_[True, records[1:] != records[:-1]]), dtype=np.int64)

    @cached_property
    def counts(self) -> Ints:
        """Return how many texts each image [I] has."""
        return np.asarray(np.diff(np.r_[self.starts, len(self.indices)]), dtype=np.int64)

    @cached_property
    def images(self) -> list[int]:
        """Return the record of each image [I]."""
        return [self.indices[start] for start in self.starts]

    @cached_property
    def held(self) -> tuple[Ints, Ints]:
        """Return the texts [M] of the groups [M], each text of a group once, by group."""
        groups, texts = np.unique(np.stack([self.groups, self.spelt]), axis=1)
        return texts, groups

    @cached_property
    def first(self) -> Ints:
        """Return the first row of each distinct text [T]: a text stands in the gallery once."""
        return np.unique(self.spelt, return_index=True)[1].astype(np.int64)

    def texts_of_images(self) -> tuple[Ints, Ints]:
        """Return the images [M] that a text [M] is a right answer to, as rows [I] and codes, every such pair once."""
        texts, groups = self.held
        mine = self.groups[self.starts]
        start, end = np.searchsorted(groups, mine, "left"), np.searchsorted(groups, mine, "right")
        counts = end - start
        image = np.repeat(np.arange(len(mine)), counts)
        return image, texts[np.repeat(start - (np.cumsum(counts) - counts), counts) + np.arange(len(image))]

    def right(self, images: Ints, texts: Ints) -> NDArray[np.bool_]:
        """Return whether the images [a] of [I] and the texts of pairs [b] belong together, [a, b]."""
        count = int(self.groups.max()) + 1
        held = self.held[0] * count + self.held[1]
        return np.isin(self.spelt[texts] * count + self.groups[self.starts[images]][:, None], held)


def texts_of(record: Sample, which: Which) -> list[str]:
    """Return the texts that a record is found by: its report or a section of it, or each of its captions."""
    if which == "caption":
        texts = [caption.strip() for caption in record.captions]
    elif record.report is None:
        texts = []
    else:
        texts = [(record.report.text if which == "report" else record.report.section(which)).strip()]
    return [text for text in dict.fromkeys(texts) if text]


def values_of(data: Data, indices: Sequence[int], texts: Sequence[str], name: str) -> list[str]:
    """Return what a column of the settings holds for records with texts; one that holds nothing is like no other.

    Raises DataError for a group column that none of them has.
    """
    records = [data.records[index] for index in indices]
    found = [_value(record, text, name) for record, text in zip(records, texts, strict=True)]
    if name not in ("text", *OWN) and not any(found):
        known = ["text", *OWN, *sorted({column for record in records for column in record.groups})]
        raise DataError(f"{data.name}: no record has a {name!r}{did_you_mean(name.removeprefix('groups.'), known)}")
    return [value or f"\0{record.key}" for value, record in zip(found, records, strict=True)]


def _value(record: Sample, text: str, name: str) -> str | None:
    if name == "text":
        return normalised(text) or text
    if name in OWN:
        value: str | None = getattr(record, name)
        return value
    return record.groups.get(name.removeprefix("groups."))


def normalised(text: str) -> str:
    """Return a text as duplicates are compared: lower case, words and numbers only."""
    return " ".join(re.findall(r"\w+", text.lower()))
