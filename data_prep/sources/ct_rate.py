"""CT-RATE: 50,188 chest CTs of 21,304 patients with English reports and 18 predicted labels, in two versions of its files.

Layout, below the raw folder or its `dataset/`: `{train,valid}_fixed/train_1/train_1_a/train_1_a_1.nii.gz` (v2, in Hounsfield
units) or `{train,valid}/...` (v1, as the scanner stored them, with blank headers); `radiology_text_reports/
{train,validation}_reports.csv`, `metadata/{train,validation}_metadata.csv`, `metadata/no_chest_{train,valid}.txt`,
`multi_abnormality_labels/{train,valid}_predicted_labels.csv`. A study is a volume's name without its last number; its
volumes are reconstructions of one scan and share report and labels. The validation set is the test split.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlp.core.config import ConfigError, config, read_yaml
from vlp.core.untrusted import read_text
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import Row, rows
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.volume import Volume
from vlp.sample import Sample

from ..readers.studies import Shared
from .base import LEARN, Record, Reject, Source, sources

_KNOWN = read_yaml(Path(__file__).with_suffix(".yaml"))
LABELS: tuple[str, ...] = tuple(_KNOWN["labels"])
BROKEN = frozenset(_KNOWN["broken"])
ENDING = ".nii.gz"
SPLITS = (("train", "train", LEARN), ("valid", "validation", "test"))
"""Of each part: its name in folders and labels, that in reports and metadata, and its split."""
GROUPS = {"sex": "PatientSex", "age": "PatientAge", "manufacturer": "Manufacturer", "kernel": "ConvolutionKernel"}
_NAME = re.compile(r"((?:train|valid)_\d+)_[A-Za-z]+_\d+")
_NOT_GIVEN = re.compile(r"(?i)\s*(not given\.?|nan)?\s*")


@sources.register("ct_rate")
class CtRate(Source):
    name = "ct_rate"
    licence = "CC BY-NC-SA 4.0"
    homepage = "https://huggingface.co/datasets/ibrahimhamamci/CT-RATE"
    modality = "CT"
    language = "en"

    @config
    class Config:
        """`version`: v2 is in Hounsfield units and is never rescaled; v1 takes slope, intercept, spacing and orientation from
        the metadata. Either is held against air, and the wrong one refused.

        `views`: which volumes of a validation study, all of them, the first, or the one of the smallest pixels where no
        study before has equal findings. `no_chest`: leave out the volumes of the list, their whole studies, or keep them.
        `groups`: of sex, age, manufacturer, kernel, those that are carried over; none unless asked, dates never.
        """

        version: Literal["v1", "v2"] = "v2"
        views: Literal["all", "first", "smallest"] = "all"
        no_chest: Literal["drop", "drop_study", "keep"] = "drop"
        groups: tuple[Literal["sex", "age", "manufacturer", "kernel"], ...] = ()

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        self.version = config.version

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        base = "dataset/" if (self.raw / "dataset").is_dir() else ""
        ending = "_fixed" if self.config.version == "v2" else ""
        there = [part for part in SPLITS if (self.raw / f"{base}{part[0]}{ending}").is_dir()]
        if not there:
            other = "" if ending else "_fixed"
            found = [part for part, *_ in SPLITS if (self.raw / f"{base}{part}{other}").is_dir()]
            hint = f"; the folders of {'v1' if ending else 'v2'} are there: source.version={'v1' if ending else 'v2'}"
            raise ConfigError(
                f"ct_rate: {self.raw} has no {base}train{ending} or {base}valid{ending}: is this the folder as published?"
                f"{hint if found else ''}"
            )
        for part, long, split in there:
            yield from self._part(_Part(f"{base}{part}{ending}", base, part, long), split)

    def _part(self, part: _Part, split: str) -> Iterator[Record]:
        folder = self.raw / part.folder
        files = {path.name: path.relative_to(self.raw).as_posix() for path in sorted(folder.rglob(f"*{ENDING}"))}
        needs = self.config.version == "v1" or self.config.groups or self.config.views == "smallest"
        metadata = {row["VolumeName"]: row for row in self._metadata(part)} if needs else {}
        labels, unequal = self._labels(part)
        scan = _Scan(rows(self.require(part.reports), ("VolumeName", *_TEXTS)), metadata)
        left = self._left_out(part, scan, split == "test")
        listed = set()
        for row in rows(self.require(part.reports)):
            name = row["VolumeName"]
            listed.add(name)
            place = files.get(name, f"{part.folder}/{name}")
            key = name.removesuffix(ENDING)
            data: dict[str, Any] = {"file": place, "texts": _texts(row), "labels": labels.get(name, {})}
            data |= {"metadata": metadata.get(name)} if needs else {}
            if key in left:
                data["problem"] = (*left[key], False)
            elif key in scan.problems:
                data["problem"] = (*scan.problems[key], True)
            yield self._record(key, data, split)
        for name in files:
            if name not in listed:
                data = {"file": files[name], "problem": ("file_without_row", f"{part.reports} has no row of it", True)}
                yield self._record(name.removesuffix(ENDING), data, split)
        unequal.check(self.name)

    def _record(self, key: str, data: dict[str, Any], split: str) -> Record:
        match = _NAME.fullmatch(key)
        if match is None:
            data["problem"] = ("bad_row", "expected a name such as train_1_a_1.nii.gz", True)
            return Record(key, data, split=split)
        return Record(key, data, match[1], study_of(key), split)

    def _metadata(self, part: _Part) -> Iterator[Row]:
        wanted = {"VolumeName", "XYSpacing", *(GROUPS[name] for name in self.config.groups)}
        if self.config.version == "v1":
            wanted |= set(_PLACE)
        for row in rows(self.require(part.metadata), sorted(wanted)):
            yield {name: row[name] for name in wanted}

    def _labels(self, part: _Part) -> tuple[dict[str, dict[str, int]], Shared]:
        """Return the labels of each volume, and whether those of a study are equal."""
        found, shared = {}, Shared("labels")
        for row in self.rows(part.labels, ("VolumeName", *LABELS)):
            name = row["VolumeName"]
            found[name] = from_columns(row, LABELS)
            shared.add(study_of(name.removesuffix(ENDING)), sorted(found[name].items()), name.removesuffix(ENDING))
        return found, shared

    def _left_out(self, part: _Part, scan: _Scan, is_test: bool) -> dict[str, tuple[str, str]]:
        """Return why volumes are left out by choice, not counted as bad."""
        left = dict.fromkeys(BROKEN, ("broken_volume", "known to be unusable"))
        path = self.raw / part.no_chest
        listed = read_text(path).split() if path.is_file() and self.config.no_chest != "keep" else []
        none = {name.removesuffix(ENDING) for name in listed}
        studies = {study_of(key) for key in none} if self.config.no_chest == "drop_study" else set()
        for keys in scan.studies.values():
            for key in keys:
                if key in none or study_of(key) in studies:
                    left[key] = ("no_chest", f"listed in {part.no_chest}")
        if is_test and self.config.views != "all":
            shown = scan.views(self.config.views, left)
            for keys in scan.studies.values():
                left |= {
                    key: ("other_view", f"views={self.config.views}") for key in keys if key not in shown | left.keys()
                }
        return left

    def sample(self, record: Record) -> Sample:
        self.refuse(record)
        data = record.data
        findings, impression = data["texts"]
        parts = [f"{name}: {text}" for name, text in (("FINDINGS", findings), ("IMPRESSION", impression)) if text]
        path = self.image(data["file"])
        about = data.get("metadata") or {}
        return self.sample_of(
            record,
            self._volume(path, about),
            report="\n".join(parts),
            labels=data["labels"],
            groups={name: about.get(GROUPS[name]) for name in self.config.groups},
        )

    def _volume(self, path: Path, about: Mapping[str, Any]) -> Volume:
        stated = _stated(about) if self.config.version == "v1" else {}
        try:
            return self.volume(path, **stated)
        except ImageError as error:
            other = {"not_rescaled": "v1", "no_orientation": "v1", "rescaled_twice": "v2"}.get(error.reason)
            hint = f" (read as {self.config.version}: is it {other}? source.version={other})"
            raise ImageError(f"{error}{hint if other and other != self.config.version else ''}", error.reason) from None


_TEXTS = ("Findings_EN", "Impressions_EN")
_PLACE = ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing", "ImageOrientationPatient")


@dataclass(frozen=True)
class _Part:
    """Where the tables of a part lie."""

    folder: str
    base: str
    short: str
    long: str

    @property
    def reports(self) -> str:
        return f"{self.base}radiology_text_reports/{self.long}_reports.csv"

    @property
    def metadata(self) -> str:
        return f"{self.base}metadata/{self.long}_metadata.csv"

    @property
    def no_chest(self) -> str:
        return f"{self.base}metadata/no_chest_{self.short}.txt"

    @property
    def labels(self) -> str:
        return f"{self.base}multi_abnormality_labels/{self.short}_predicted_labels.csv"


class _Scan:
    """What must be known of all rows of a part before the first is used: its studies, and whose report is another's."""

    def __init__(self, table: Iterator[Row], metadata: Mapping[str, Row]) -> None:
        self.studies: dict[str, list[str]] = {}
        self.problems: dict[str, tuple[str, str]] = {}
        self._metadata = metadata
        self._findings: dict[str, bytes] = {}
        first: dict[str, tuple[bytes, str]] = {}
        for row in table:
            key, texts = row["VolumeName"].removesuffix(ENDING), _texts(row)
            study = study_of(key)
            self.studies.setdefault(study, []).append(key)
            self._findings.setdefault(study, _hash(texts[0]))
            if any(texts):
                found, other = first.setdefault(study, (_hash(repr(texts)), key))
                if found != _hash(repr(texts)):
                    self.problems[key] = ("two_reports", f"another report than {other}, of the same study")

    def views(self, which: str, left: Mapping[str, Any]) -> set[str]:
        """Return the volumes that are looked at of those that are not left out, at most one of a study."""
        shown, seen = set(), set()
        for study, keys in self.studies.items():
            usable = [key for key in keys if key not in left]
            if which == "smallest":
                usable.sort(key=self._pixel)
                if self._findings[study] in seen:
                    continue
            else:
                usable.sort(key=lambda key: int(key.rpartition("_")[2]))
            if usable:
                shown.add(usable[0])
                seen.add(self._findings[study])
        return shown

    def _pixel(self, key: str) -> float:
        return min(_numbers(self._metadata.get(f"{key}{ENDING}", {}), "XYSpacing", 2) or [np.inf])


def study_of(key: str) -> str:
    return key.rpartition("_")[0]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def _texts(row: Row) -> tuple[str, str]:
    """Return findings and impression, "" for what is not given."""
    findings, impression = ("" if _NOT_GIVEN.fullmatch(str(row[name])) else str(row[name]).strip() for name in _TEXTS)
    return findings, impression


def _stated(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the metadata say of a file of v1: its axes i, j, k as a DICOM file's columns, rows and their normal."""
    slope, intercept = (_numbers(about, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
    pixel, gap = _numbers(about, "XYSpacing", 2), _numbers(about, "ZSpacing", 1)
    plane = _numbers(about, "ImageOrientationPatient", 6)
    if not (slope and intercept and pixel and gap and plane):
        raise Reject("metadata_missing", f"version v1 needs {', '.join(_PLACE)} of each volume")
    row, column = np.array(plane[:3]), np.array(plane[3:])
    directions = (row, column, np.cross(row, column))
    if min(np.abs(direction).max() for direction in directions) < 0.999:
        raise Reject("oblique", "slices aslant of the patient's axes: a file of v1 does not say how, take v2")
    worlds = [int(np.abs(direction).argmax()) for direction in directions]
    codes = "".join(
        "LPS"[at] if direction[at] > 0 else "RAI"[at] for at, direction in zip(worlds, directions, strict=True)
    )
    along = dict(zip(worlds, (pixel[1], pixel[0], gap[0]), strict=True))
    return {
        "orientation": codes,
        "spacing": (along[2], along[1], along[0]),
        "rescale": (slope[0], intercept[0]),
    }


def _numbers(row: Mapping[str, Any], name: str, count: int) -> list[float]:
    """Return the numbers of a cell, a list as text or one of them; [] where there are not as many."""
    try:
        value = ast.literal_eval(str(row.get(name, "")))
        found = [float(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    return found if len(found) == count and np.isfinite(found).all() else []
