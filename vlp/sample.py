"""What a sample is: one image with what is known of it. A leaf without torch, used by data preparation too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


Assertion = Literal["present", "absent", "uncertain"]


PRESENT, ABSENT, UNCERTAIN, UNKNOWN = 1, 0, -1, -2
"""The values of a label, in `Sample.labels` and in `Batch.labels`; UNKNOWN is a label that the source does not state."""

HU_EDGES = (-1000, -950, -850, -700, -500, -200, -100, -50, 0, 20, 40, 60, 100, 200, 400, 1000)
"""Where the histogram of a CT is divided, in Hounsfield units: air, lung, fat, water, soft tissue, bone, metal."""

ASSERTIONS = {"present": PRESENT, "absent": ABSENT, "uncertain": UNCERTAIN}
_FOLD = re.compile(r"[\W_]+")
_SENTENCE = re.compile(r"[^\s.!?;][^.!?;\n]*(?:[.](?=\d)[^.!?;\n]*)*[.!?;]*")


@dataclass(frozen=True, slots=True)
class Mention:
    """A clinical concept in a text: characters `[start, end)` of `Report.text`, its code, and what the text says of it."""

    text: str
    code: str
    start: int
    end: int
    assertion: Assertion = "present"
    side: str | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A phrase and the rectangle it speaks of: `(x1, y1, x2, y2)` in pixels of the stored image, x1 < x2, y1 < y2.

    Of a volume `(x1, y1, z1, x2, y2, z2)` in voxels. Edges, not pixel indices: a box of the single pixel (0, 0) is
    (0, 0, 1, 1).
    """

    phrase: str
    xyxy: tuple[float, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A report: the text, and spans of characters `[start, end)` into it for its sentences and its named sections."""

    text: str
    sentences: tuple[tuple[int, int], ...] = ()
    sections: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def section(self, name: str) -> str:
        """Return the text of a section, empty where the report has none of that name."""
        start, end = self.sections.get(name, (0, 0))
        return self.text[start:end]

    @property
    def findings(self) -> str:
        return self.section("findings")

    @property
    def impression(self) -> str:
        return self.section("impression")


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What a record says of its volume, so that nothing need be decoded to know it.

    `shape` [D, H, W] and `spacing` in millimetres along them; `affine`, three rows of four: from a voxel's indices (x, y, z)
    to millimetres in RAS; `orientation` of the file that it came from, such as LPS; `unit` of its values, HU or none.
    `histogram`: how many voxels lie below, between and above `HU_EDGES`, () where the values are no HU.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...]
    orientation: str
    unit: str
    histogram: tuple[int, ...] = ()


@runtime_checkable
class Voxels(Protocol):
    """A volume that is not encoded yet: a `vlp.modalities.volume.volume.Volume`."""

    @property
    def voxels(self) -> Any: ...

    @property
    def affine(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one volume in its place, with what is known of it: what a source yields and what a shard holds.

    `image` is a path, encoded bytes (JPEG or PNG; of a volume blosc2's), uint8 pixels `[H, W]` or `[H, W, 3]`, or a
    volume, of which `volume` tells. `masks` maps a name to bytes of the image's size (non-zero = inside), PNG or blosc2's.
    `labels` maps a finding to 1, 0 or -1 (uncertain); absent = not stated. `groups` holds the columns that scores are
    broken down by (sex, age, site, ...). `steps` says in order what was done to the pixels on their way here (DICOM
    windowing, inversion, resizing).
    """

    key: str
    image: Path | bytes | np.ndarray | Voxels
    report: Report | None = None
    captions: tuple[str, ...] = ()
    study: str | None = None
    patient: str | None = None
    modality: str | None = None
    view: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    concepts: tuple[Mention, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: Mapping[str, bytes] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    source: str = ""
    licence: str = ""
    steps: tuple[str, ...] = ()
    volume: VolumeInfo | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pixels as plain JSON values, empty fields left out; masks as their sorted names."""
        record: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "image" or value in (None, "", (), {}):
                continue
            if item.name in ("concepts", "boxes"):
                value = [asdict(entry) for entry in value]
            elif item.name in ("report", "volume"):
                value = asdict(value)
            elif item.name == "masks":
                value = sorted(value)
            elif item.name in ("labels", "groups"):
                value = dict(value)
            record[item.name] = value
        return record


def concept_code(code: str, side: str | None, zone: str | None) -> int:
    """Return a stable int64 for a finding at a place: equal for equal (code, side, zone), in `Spans.code`, `Phrases.code`."""
    return code_of(concept_text(code, side, zone))


def concept_text(code: str, side: str | None, zone: str | None) -> str:
    """Return the text that `concept_code` is the hash of."""
    return f"{code}|{side or ''}|{zone or ''}"


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the sentences of a text whose source names none: runs up to `.`, `!`, `?`, `;` or a line's end.

    Decimal points do not end a sentence; abbreviations do. Sources with a report parser give better ones.
    """
    return [(match.start(), match.start() + len(match.group().rstrip())) for match in _SENTENCE.finditer(text)]


def sentences(report: Report) -> Sequence[tuple[int, int]]:
    """Return the spans of a report's sentences, split here where the source gave none."""
    return report.sentences or split_sentences(report.text)


def mentions_by_sentence(sample: Sample) -> Iterator[tuple[str, list[Mention]]]:
    """Yield the sentences of a sample's report, each with the mentions that lie in it; nothing where there is no report."""
    if sample.report is None:
        return
    for start, end in sentences(sample.report):
        inside = [mention for mention in sample.concepts if start <= mention.start and mention.end <= end]
        yield sample.report.text[start:end], inside


def fold(text: str) -> str:
    """Return a text in lower case with white space and punctuation folded: equal for texts that differ by a comma."""
    return _FOLD.sub(" ", text.casefold()).strip()


def code_of(text: str) -> int:
    """Return a stable int64 hash (blake2b, 8 bytes) of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
