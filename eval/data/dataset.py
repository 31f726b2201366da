"""The records of an evaluation set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.untrusted import read_regular
from vlp.sample import Sample

from .spec import DataError

if TYPE_CHECKING:
    from vlp.data.shards.manifest import Manifest

Findings = tuple[dict[str, Any], list[str]]
"""Facts about data, and problems with it."""


@dataclass(eq=False)
class Data:
    """The records of one split [n] without pixels; `image(i)` reads them. `digest` stands for the content.

    `is_whole`: a split was asked for and the set has none, so that these are all of its records, and `split` is None.
    `sample` reads a whole record of the set, of which those at `places` are `records`. `rejected`: the keys of damaged
    records, which are not among them, and why. `build`: the sha256 of the set's shards, those of its other splits included.
    """

    name: str
    split: str | None
    records: Sequence[Sample]
    sample: Callable[[int], Sample]
    places: Sequence[int]
    digest: str
    is_whole: bool = False
    rejected: dict[str, str] = field(default_factory=dict)
    build: frozenset[str] = frozenset()
    manifest: Manifest | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> bytes:
        """Return the encoded image of a record; raises DataError naming it when the file is missing."""
        image = self.sample(self.places[index]).image
        if isinstance(image, Path):
            try:
                return read_regular(image)
            except OSError as error:
                raise DataError(
                    f"image of {self.records[index].key!r}: cannot read {image}: {error.strerror}"
                ) from None
        if isinstance(image, np.ndarray):
            return png_of(image)
        assert isinstance(image, bytes)  # volumes are encoded in shards
        return image

    def place_of(self, index: int) -> tuple[str, int] | None:
        """Return the sha256 of the shard that a record lies in and the checksum of its members; None outside of shards."""
        if self.manifest is None:
            return None
        shard, row = self.manifest.locate(self.places[index])
        return str(self.manifest.shards[shard].sha256), int(self.manifest.columns(shard).crc32[row])

    def mask(self, index: int, name: str) -> bytes | None:
        """Return a mask of a record as bytes, PNG or of a volume blosc2, or None."""
        return self.sample(self.places[index]).masks.get(name)

    def usable(self) -> list[int]:
        """Return the indices of the records whose image has not turned out unreadable."""
        return [index for index, record in enumerate(self.records) if record.key not in self.unreadable]

    @property
    def unit(self) -> str:
        """What is resampled: the patient, or the study or the image where no record says its patient."""
        if any(record.patient for record in self.records):
            return "patient"
        return "study" if any(record.study for record in self.records) else "image"

    def patient(self, index: int) -> str:
        """Return what is resampled: the patient, else the study, else the image itself."""
        record = self.records[index]
        return record.patient or record.study or record.key

    def patient_code(self, index: int) -> str:
        """Return a code for the patient, the same in every run over this data: its number in the order of the records.

        No hash of the id: who has the results could try all ids that there may be.
        """
        return f"p{self._patients[self.patient(index)]}"

    @cached_property
    def _patients(self) -> dict[str, int]:
        """Return the number of each patient, counted from 1 as they come."""
        names = dict.fromkeys(self.patient(index) for index in range(len(self.records)))
        return {name: number for number, name in enumerate(names, 1)}

    @property
    def synthetic(self) -> bool:
        """Whether the records are made up, so that their text may be shown."""
        return all(record.source in ("synthetic", "synthetic_ct") for record in self.records)


class UnreadableError(DataError):
    """Images of `data` that do not decode, by sample key: the task fails, or leaves them out under `--allow-missing`."""

    def __init__(self, reasons: dict[str, str], data: Data) -> None:
        first = next(iter(reasons))
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        super().__init__(f"unreadable image {first!r}{more}: {reasons[first]} (--allow-missing leaves such images out)")
        self.reasons, self.data = reasons, data


def png_of(pixels: NDArray[Any]) -> bytes:
    """Return grey or RGB pixels as a PNG."""
    import cv2

    return bytes(cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])[1].tobytes())


def ids_digest(keys: Sequence[str]) -> str:
    """Return the sha256 of the sorted ids, one a line: what "the same test set" means."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()
