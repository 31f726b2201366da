"""A tree of DICOM files and a table of reports, as a hospital's archive exports them.

    VLP_PREP_KEY=... vlp-prep build dicom_folder --raw DIR --table reports.csv --map study=AccessionNumber report=Text --out DIR

Every file that is DICOM is read, whatever its name. A report is found by study (StudyInstanceUID), accession number, patient
or image, whichever the mapping names; or in a text file beside the images (`reports: sidecar`). Ids become keyed hashes, and
of the header only modality, view, sex and age are kept. Frames and series of slices become images of their own, or
volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean
from vlp.data.tables.cells import CellError, identity, text
from vlp.data.tables.read import numbered_rows
from vlp.modalities.image.dicom import Frames, check_frames, not_an_image, open_dicom, quiet, read_header, redact_error
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.grey_scale import DicomOptions, numbers, whole
from vlp.modalities.image.grey_scale import text as element
from vlp.modalities.volume.formats.dicom_series import counted, find_series
from vlp.modalities.volume.formats.dicom_slice import SCOUTS
from vlp.modalities.volume.formats.slices import along_normal
from vlp.modalities.volume.options import LEAST
from vlp.sample import Sample

from ..images.dicom import header, ids
from ..images.modality_codes import modality_of
from ..images.volumes import FACE
from .base import Record, Reject, Source, safe_key, sources

LINKS = ("study", "accession", "patient", "image")
HEADS = frozenset(
    ("BRAIN", "FACE", "HEAD", "HEADNECK", "JAW", "MANDIBLE", "MAXILLA", "NOSE", "ORBIT", "PARANASALSINUS", "SKULL")
)
SKIPPED = {
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".xml",
    ".md",
    ".pdf",
    ".parquet",
    ".yaml",
    ".html",
    ".gz",
    ".nii",
}


@sources.register("dicom_folder")
class DicomFolder(Source):
    name = "dicom_folder"
    licence = "your own"
    identifying = True

    @config
    class Config:
        """`table` of reports, `map` from study | accession | patient | image and report | findings | impression to columns.
        Rows of one id are one report, in the table's order (an addendum); `separator` of a CSV without commas.

        `frames`: of a multi-frame file, the first, each as an image, or all as a volume; `series`: files of one series as
        separate images, or as a volume for each stack of slices in it, whose own options are those of `volume`: what is
        no slice of a volume is left out then. `window` of images: "file", "range" or "center,width", see
        `vlp.modalities.image.grey_scale`. `modalities`: only these (CR,
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

    def holds_volumes(self) -> bool:
        return "volume" in (self.config.series, self.config.frames)

    def records(self) -> Iterator[Record]:
        reports, link = self._reports()
        stacks: dict[str, _Stack] = {}
        for path in sorted(self.raw.rglob("*")):
            if not path.is_file() or path.suffix.lower() in SKIPPED or path.name in ("DICOMDIR", ".DS_Store"):
                continue
            name = path.relative_to(self.raw).as_posix()
            record = self._record(path, name, reports, link)
            owner = self._stack_of(record)
            if owner is not None:
                stacks.setdefault(owner, _Stack(record)).add(record)
                continue
            frames = record.data.get("frames", 1) if self.config.frames == "slices" else 1
            for number in range(frames):
                key = f"{record.key}_{number:04d}" if frames > 1 else record.key
                yield Record(key, {**record.data, "frame": number}, record.patient, record.study)
        for name, stack in stacks.items():
            yield from self._volumes(name, stack)

    def _stack_of(self, record: Record) -> str | None:
        """Return the name of the stack of slices that a file belongs to, None where it is an image of its own."""
        data = record.data
        if "problem" in data:
            return None
        if self.config.series == "volume":
            return data["series"] or str(Path(data["file"]).parent)
        return record.key if self.config.frames == "volume" and data["frames"] > 1 else None

    def _volumes(self, name: str, stack: _Stack) -> Iterator[Record]:
        """Yield the volumes in a stack; where it is one that its headers do not show at once, all are looked at again."""
        first = stack.first
        for number, (problem, sequence) in enumerate(found := self._looked_at(stack)):
            data = {**first.data, "members": stack.files, "volume": number if len(found) > 1 else None}
            data |= {"sequence": sequence} | ({"problem": problem} if problem else {})
            key = f"{safe_key(name)}_{number}" if len(found) > 1 else safe_key(name)
            yield Record(key, data, first.patient, first.study)

    def _looked_at(self, stack: _Stack) -> list[tuple[tuple[str, str, bool] | None, str]]:
        """Return what is wrong with each volume of a stack, and which of several of one series it is."""
        few = f"{len(stack.files)} slices, a volume has at least {LEAST}"
        if stack.is_plain:
            return [(("no_volume", few, False) if len(stack.files) < LEAST else None, "")]
        found = find_series([self.raw / file for file in stack.files])
        if found.damaged:
            return [((found.damaged[0].reason, str(found.damaged[0]), found.damaged[0].counted), "")]
        if not found.series:
            return [(("no_volume", counted(found.left_out), False), "")]
        return [
            (("no_volume", str(series), False) if len(series.slices) < LEAST else None, series.sequence)
            for series in found.series
        ]

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
        if "problem" in data and data["problem"][-1] and "members" not in data:
            open_dicom(self.image(data["file"]))  # says why, for most
        self.refuse(record)
        known = data["header"]
        if self.config.modalities and not self._asked_for(known.get("modality", "")):
            raise Reject("other_modality", known.get("modality", ""), counted=False)
        image, steps = self._image(data)
        return self.sample_of(
            record,
            image,
            report=self._text(data["report"]),
            modality=known.get("modality"),
            view=known.get("view"),
            groups={
                **{name: known[name] for name in ("sex", "age") if name in known},
                "sequence": data.get("sequence"),
            },
            licence="",
            steps=steps,
        )

    def _asked_for(self, modality: str) -> bool:
        """Return whether the options name a modality, by DICOM's code or in other words for it."""
        wanted = {name.upper() for name in self.config.modalities}
        return modality.upper() in wanted | {modality_of(name) for name in wanted}

    def _image(self, data: Any) -> tuple[Any, tuple[str, ...]]:
        """Return the pixels or the volume of a record, and what was done to them or is known of it."""
        if "members" in data:
            steps = (FACE,) if data["header"].get("body_part") in HEADS else ()
            return self.volume([self.image(name) for name in data["members"]], volume=data["volume"]), steps
        return self._frames(data["file"], DicomOptions(window=self.config.window)).read(data["frame"])

    def _frames(self, name: str, options: DicomOptions) -> Frames:
        """Return the frames of a file; the last file stays open for the next of its frames."""
        if self._opened is None or self._opened[0] != name:
            self._opened = name, Frames(open_dicom(self.image(name), any_kind=True), options, self.max_pixels)
        return self._opened[1]

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


class _Stack:
    """The files of a series, and whether they show at once that they are the slices of one volume."""

    def __init__(self, first: Record) -> None:
        self.first = first
        self.files: list[str] = []
        self._places: set[float] = set()
        self._planes: set[tuple[Any, ...]] = set()

    def add(self, record: Record) -> None:
        """Add a file; a report beside one of them is that of all."""
        along, plane = record.data["place"]
        self.files.append(record.data["file"])
        self._places.add(along)
        self._planes.add(plane)
        if self.first.data["report"] is None and record.data["report"] is not None:
            self.first = record

    @property
    def is_plain(self) -> bool:
        return len(self._planes) == 1 and () not in self._planes and len(self._places) == len(self.files)


def _place(dataset: Any) -> tuple[float, tuple[Any, ...]]:
    """Return where a slice lies along its normal, and its plane: orientation and size, () for what is no plain slice."""
    plane, position = numbers(dataset, "ImageOrientationPatient"), numbers(dataset, "ImagePositionPatient")
    is_scout = any(word in element(dataset, "ImageType").upper() for word in SCOUTS)
    if len(plane) != 6 or len(position) != 3 or whole(dataset, "NumberOfFrames", 1) > 1 or is_scout:
        return 0.0, ()
    along = float(along_normal(np.array([position]), np.array(plane))[0])
    return round(along, 3), (*(round(part, 3) for part in plane), whole(dataset, "Rows"), whole(dataset, "Columns"))
