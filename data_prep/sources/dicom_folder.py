"""A tree of DICOM files and a table of reports, as a hospital's archive exports them.

    VLP_PREP_KEY=... vlp-prep build dicom_folder --raw DIR --table reports.csv --map study=AccessionNumber report=Text --out DIR

Every file that is DICOM is read, whatever its name. A report is found by study (StudyInstanceUID), accession number, patient
or image, whichever the mapping names; or in a text file beside the images (`reports: sidecar`). Ids become keyed hashes, and
of the header only modality, view, sex and age are kept. Frames and series of slices become samples of their own or one tall
image per volume, by choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean
from vlp.data.tables.cells import CellError, identity, text
from vlp.data.tables.read import numbered_rows
from vlp.modalities.image.dicom import (
    Frames,
    Slices,
    check_frames,
    not_an_image,
    open_dicom,
    quiet,
    read_header,
    read_volume,
    redact_error,
)
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.grey_scale import DicomOptions, numbers
from vlp.sample import Sample

from ..images.dicom import header, ids
from ..images.modality_codes import modality_of
from .base import Record, Reject, Source, safe_key, sources

LINKS = ("study", "accession", "patient", "image")
PARALLEL = 0.99
"""The least cosine between the normals of slices of one volume."""
SKIPPED = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".pdf", ".parquet", ".yaml", ".html"}


@sources.register("dicom_folder")
class DicomFolder(Source):
    name = "dicom_folder"
    licence = "your own"
    identifying = True

    @config
    class Config:
        """`table` of reports, `map` from study | accession | patient | image and report | findings | impression to columns.
        Rows of one id are one report, in the table's order (an addendum); `separator` of a CSV without commas.

        `frames`: of a multi-frame file, the first, each as a slice, or all as one volume; `series`: files of one series as
        separate images, or as one volume for each plane of theirs, in the order of their positions and on one grey scale.
        `window`: "file", "range" or "center,width", see `vlp.modalities.image.grey_scale`. `modalities`: only these (CR,
        DX, CT, ...). Segmentations, dose maps, reports and what else is no picture of a patient is left out and counted;
        naming its modality (SEG) here takes it in.
        """

        table: str | None = None
        map: dict[str, str] = field(default_factory=dict)
        encoding: str = "utf-8"
        separator: str | None = None
        reports: Literal["table", "sidecar"] = "table"
        frames: Literal["first", "slices", "volume"] = "first"
        series: Literal["images", "volume"] = "images"
        window: str = "file"
        modalities: tuple[str, ...] = ()

    _opened: tuple[str, Frames] | None = None

    def records(self) -> Iterator[Record]:
        if self.config.series == "volume":  # the first record of a series grows with its files until all are seen
            yield from list(self._walk())
        else:
            yield from self._walk()

    def _walk(self) -> Iterator[Record]:
        reports, link = self._reports()
        volumes: dict[str, list[_Plane]] = {}
        for path in sorted(self.raw.rglob("*")):
            if not path.is_file() or path.suffix.lower() in SKIPPED or path.name in ("DICOMDIR", ".DS_Store"):
                continue
            name = path.relative_to(self.raw).as_posix()
            record = self._record(path, name, reports, link)
            series = record.data.get("series") if self.config.series == "volume" else None
            members = None
            if series:
                plane, is_new = _plane_of(volumes.setdefault(series, []), record.data["normal"])
                plane.members.append((record.data["place"], name))
                if not is_new:
                    continue
                members = plane.members
            frames = record.data.get("frames", 1) if self.config.frames == "slices" else 1
            for number in range(frames):
                key = f"{record.key}_{number:04d}" if frames > 1 else record.key
                data = {**record.data, "frame": number, "members": members}
                yield Record(key, data, record.patient, record.study)

    def _record(self, path: Path, name: str, reports: dict[str, dict[str, str]], link: str) -> Record:
        try:
            with quiet():
                return self._known(path, name, reports, link)
        except ImageError as error:
            problem = (error.reason, str(error), error.counted)
            return Record(key=safe_key(name), data={"file": name, "problem": problem})
        except Exception as error:  # pydicom raises many kinds on damaged headers
            return Record(key=safe_key(name), data={"file": name, "problem": ("bad_header", redact_error(error), True)})

    def _known(self, path: Path, name: str, reports: dict[str, dict[str, str]], link: str) -> Record:
        """Return the record of a file whose header can be read; raises ImageError and what pydicom raises."""
        dataset = read_header(path)
        known, kind = ids(dataset), not_an_image(dataset)
        if kind and not self._asked_for(str(dataset.get("Modality", ""))):
            problem = ("not_an_image", kind, False)
            return Record(key=safe_key(known.get("image") or name), data={"file": name, "problem": problem})
        return Record(
            key=safe_key(known.get("image") or name),
            patient=known.get("patient"),
            study=known.get("study"),
            data={
                "file": name,
                "header": header(dataset),
                "frames": check_frames(dataset, path.stat().st_size),
                "place": _place(dataset),
                "normal": _normal(dataset),
                "series": known.get("series"),
                "report": self._sidecar(path) if self.config.reports == "sidecar" else reports.get(known.get(link, "")),
            },
        )

    def _reports(self) -> tuple[dict[str, dict[str, str]], str]:
        """Return reports by id, and which id the mapping names; raises ConfigError."""
        if self.config.table is None:
            return {}, "study"
        fields = (*LINKS, "report", "findings", "impression")
        for name in self.config.map:
            if name not in fields:
                raise ConfigError(f"--map {name}=...: no field {name!r}{did_you_mean(name, fields)}")
        links = [name for name in LINKS if name in self.config.map]
        if len(links) != 1 or not {"report", "findings", "impression"} & set(self.config.map):
            raise ConfigError(
                "dicom_folder: --map must name one of study, accession, patient, image (how a row finds its images) and "
                "report, findings or impression"
            )
        table = self.path(self.config.table)
        column = self.config.map[links[0]]
        found: dict[str, dict[str, str]] = {}
        wanted, encoding, separator = self.config.map.values(), self.config.encoding, self.config.separator
        for number, row in numbered_rows(table, wanted, encoding, separator=separator):
            try:
                known = identity(row[column], column)
                texts = {name: text(row[other], other) for name, other in self.config.map.items() if name not in LINKS}
            except CellError as error:
                raise ConfigError(f"{table}, line {number}: {error.detail}") from None
            if known is not None:
                _join(found.setdefault(known, {}), texts)
        return found, links[0]

    def _sidecar(self, path: Path) -> dict[str, str] | None:
        for place in (path.with_suffix(".txt"), path.parent / "report.txt", path.parent.with_suffix(".txt")):
            if place.is_file() and place.is_relative_to(self.raw):
                return {"sidecar": place.relative_to(self.raw).as_posix()}
        return None

    def sample(self, record: Record) -> Sample:
        data = record.data
        if "problem" in data:
            reason, detail, counted = data["problem"]
            if counted:
                open_dicom(self.image(data["file"]))  # says why, for most
            raise Reject(reason, detail, counted=counted)
        known = data["header"]
        if self.config.modalities and not self._asked_for(known.get("modality", "")):
            raise Reject("other_modality", known.get("modality", ""), counted=False)
        pixels, steps = self._pixels(data)
        return self.sample_of(
            record,
            pixels,
            report=self._text(data["report"]),
            modality=known.get("modality"),
            view=known.get("view"),
            groups={name: known[name] for name in ("sex", "age") if name in known},
            licence="",
            steps=steps,
        )

    def _asked_for(self, modality: str) -> bool:
        """Return whether the options name a modality, by DICOM's code or in other words for it."""
        wanted = {name.upper() for name in self.config.modalities}
        return modality.upper() in wanted | {modality_of(name) for name in wanted}

    def _pixels(self, data: Any) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        options = DicomOptions(window=self.config.window)
        if data["members"] is not None:
            names = [name for _, name in sorted(data["members"])]

            def files(pixels: bool) -> Iterator[tuple[Any, int]]:
                for name in names:
                    path = self.image(name)
                    yield (open_dicom(path, any_kind=True) if pixels else read_header(path)), 0

            return self._stack(files, len(names), "slices of a series")
        frames = self._frames(data["file"], options)
        if self.config.frames == "volume" and len(frames) > 1:

            def numbered(_: bool) -> Iterator[tuple[Any, int]]:
                yield from ((frames.dataset, index) for index in range(len(frames)))

            return self._stack(numbered, len(frames), "frames")
        return frames.read(data["frame"])

    def _frames(self, name: str, options: DicomOptions) -> Frames:
        """Return the frames of a file; the last file stays open for the next of its frames."""
        if self._opened is None or self._opened[0] != name:
            self._opened = name, Frames(open_dicom(self.image(name), any_kind=True), options, self.max_pixels)
        return self._opened[1]

    def _stack(self, slices: Slices, count: int, kind: str) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        """Return a volume with its slices on top of each other, `[D * H, W]`; raises ImageError."""
        pixels, steps = read_volume(slices, count, DicomOptions(window=self.config.window), self.max_pixels)
        return np.concatenate(list(pixels)), (*steps, f"volume: {count} {kind} stacked downwards")

    def _text(self, texts: dict[str, str] | None) -> str:
        if not texts:
            return ""
        if "sidecar" in texts:
            return self.text(self.path(texts["sidecar"]), self.config.encoding)
        parts = [texts.get("report", "")]
        parts += [f"{name.upper()}: {texts[name]}" for name in ("findings", "impression") if texts.get(name)]
        return "\n".join(part for part in parts if part)


def _join(report: dict[str, str], more: dict[str, str]) -> None:
    """Add a further row of the same id to a report, behind it: an addendum; what is there already is not repeated."""
    for name, part in more.items():
        before = report.get(name, "")
        if part.strip() and part not in before.split("\n\n"):
            report[name] = f"{before}\n\n{part}" if before else part
        report.setdefault(name, "")


@dataclass
class _Plane:
    """The files of a series whose slices are parallel: their normal, and (place, name) of each."""

    normal: tuple[float, ...] | None
    members: list[tuple[tuple[float, ...], str]] = field(default_factory=list)


def _plane_of(planes: list[_Plane], normal: tuple[float, ...] | None) -> tuple[_Plane, bool]:
    """Return the plane of a series that a slice belongs to, made where there is none yet, and whether it is new.

    A localizer holds slices of three planes under one series number: three volumes, not one.
    """
    for plane in planes:
        same = plane.normal is None if normal is None else plane.normal is not None
        if same and (normal is None or abs(np.dot(normal, plane.normal or ())) > PARALLEL):
            return plane, False
    planes.append(_Plane(normal))
    return planes[-1], True


def _normal(dataset: Any) -> tuple[float, ...] | None:
    """Return the unit normal of a slice's plane, None where the header does not say it."""
    plane = np.array(numbers(dataset, "ImageOrientationPatient"))
    if len(plane) != 6 or not (length := np.linalg.norm(normal := np.cross(plane[:3], plane[3:]))):
        return None
    return tuple(float(part) for part in normal / length)


def _place(dataset: Any) -> tuple[float, ...]:
    """Return where a slice lies in its series: along the normal of its plane, else its instance number."""
    number = (numbers(dataset, "InstanceNumber") or [0.0])[0]
    position, normal = numbers(dataset, "ImagePositionPatient"), _normal(dataset)
    if len(position) != 3 or normal is None:
        return (0.0, number)
    return (float(np.dot(normal, position)), number)
