"""A tree of DICOM files and a table of reports, as a hospital's archive exports them.

    VLP_PREP_KEY=... vlp-prep build dicom_folder --raw DIR --table reports.csv --map study=AccessionNumber report=Text --out DIR

Every file that is DICOM is read, whatever its name. A report is found by study (StudyInstanceUID), accession number, patient
or image, whichever the mapping names; or in a text file beside the images (`reports: sidecar`). Ids become keyed hashes, and
of the header only modality, view, sex and age are kept. Frames and series of slices become samples of their own or one tall
image per volume, by choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlp.config import config
from vlp.data.tables.cells import CellError, identity, text
from vlp.data.tables.read import numbered_rows
from vlp.registry import did_you_mean
from vlp.types import Report, Sample

from ..dicom import DicomOptions, complaint, frame_count, header, ids, iter_frames, open_dicom, read_header
from .base import Record, Reject, Source, SourceError, safe_key, sources

LINKS = ("study", "accession", "patient", "image")
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
        separate images, or as one volume in the order of their positions. `window` see `vlp_prep.dicom`. `modalities`:
        only these (CR, DX, CT, ...).
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

    def records(self) -> Iterator[Record]:
        if self.config.series == "volume":  # the first record of a series grows with its files until all are seen
            yield from list(self._walk())
        else:
            yield from self._walk()

    def _walk(self) -> Iterator[Record]:
        reports, link = self._reports()
        volumes: dict[str, list[tuple[tuple[float, ...], str]]] = {}
        for path in sorted(self.raw.rglob("*")):
            if not path.is_file() or path.suffix.lower() in SKIPPED or path.name in ("DICOMDIR", ".DS_Store"):
                continue
            name = path.relative_to(self.raw).as_posix()
            record = self._record(path, name, reports, link)
            series = record.data.get("series")
            if self.config.series == "volume" and series:
                first = series not in volumes
                volumes.setdefault(series, []).append((record.data["place"], name))
                if not first:
                    continue
            frames = record.data.get("frames", 1) if self.config.frames == "slices" else 1
            for number in range(frames):
                key = f"{record.key}_{number:04d}" if frames > 1 else record.key
                members = volumes[series] if self.config.series == "volume" and series else None
                data = {**record.data, "frame": number, "members": members}
                yield Record(key, data, record.patient, record.study)

    def _record(self, path: Path, name: str, reports: dict[str, dict[str, str]], link: str) -> Record:
        try:
            dataset = read_header(path)
            known = ids(dataset)
            found = {"header": header(dataset), "frames": frame_count(dataset), "place": _place(dataset)}
        except Reject as reject:
            return Record(key=safe_key(name), data={"file": name, "problem": (reject.reason, reject.detail)})
        except Exception as error:  # pydicom raises many kinds on damaged headers
            return Record(key=safe_key(name), data={"file": name, "problem": ("bad_header", complaint(error))})
        wanted = known.get(link, "")
        return Record(
            key=safe_key(known.get("image") or name),
            patient=known.get("patient"),
            study=known.get("study"),
            data={
                "file": name,
                **found,
                "series": known.get("series"),
                "report": self._sidecar(path) if self.config.reports == "sidecar" else reports.get(wanted),
            },
        )

    def _reports(self) -> tuple[dict[str, dict[str, str]], str]:
        """Return reports by id, and which id the mapping names; raises SourceError."""
        if self.config.table is None:
            return {}, "study"
        fields = (*LINKS, "report", "findings", "impression")
        for name in self.config.map:
            if name not in fields:
                raise SourceError(f"--map {name}=...: no field {name!r}{did_you_mean(name, fields)}")
        links = [name for name in LINKS if name in self.config.map]
        if len(links) != 1 or not {"report", "findings", "impression"} & set(self.config.map):
            raise SourceError(
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
                raise SourceError(f"{table}, line {number}: {error.detail}") from None
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
            open_dicom(self.image(data["file"]))  # says why, for most
            raise Reject(*data["problem"])
        known = data["header"]
        if self.config.modalities and known.get("modality") not in self.config.modalities:
            raise Reject("other_modality", known.get("modality", ""), counted=False)
        pixels, steps = self._pixels(data)
        return Sample(
            key=record.key,
            image=pixels,
            report=self._text(data["report"]),
            study=record.study,
            patient=record.patient,
            modality=known.get("modality"),
            view=known.get("view"),
            groups={name: known[name] for name in ("sex", "age") if name in known},
            source=self.name,
            steps=steps,
        )

    def _pixels(self, data: Any) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
        options = DicomOptions(window=self.config.window)
        if data["members"] is not None:
            names = [name for _, name in sorted(data["members"])]
            slices = [next(iter_frames(open_dicom(self.image(name)), options)) for name in names]
            return _stack(slices, "slices of a series")
        frames = iter_frames(open_dicom(self.image(data["file"])), options)
        if self.config.frames == "volume" and data["frames"] > 1:
            return _stack(list(frames), "frames")
        return next(one for number, one in enumerate(frames) if number == data["frame"])

    def _text(self, texts: dict[str, str] | None) -> Report | None:
        if not texts:
            return None
        if "sidecar" in texts:
            return Report(self.text(self.path(texts["sidecar"]), self.config.encoding))
        parts = [texts.get("report", "")]
        parts += [f"{name.upper()}: {texts[name]}" for name in ("findings", "impression") if texts.get(name)]
        whole = "\n".join(part for part in parts if part)
        return Report(whole) if whole else None


def _join(report: dict[str, str], more: dict[str, str]) -> None:
    """Add a further row of the same id to a report, behind it: an addendum; what is there already is not repeated."""
    for name, part in more.items():
        before = report.get(name, "")
        if part.strip() and part not in before.split("\n\n"):
            report[name] = f"{before}\n\n{part}" if before else part
        report.setdefault(name, "")


def _place(dataset: Any) -> tuple[float, ...]:
    """Return where a slice lies in its series: along the normal of its plane, else its instance number."""
    number = float(getattr(dataset, "InstanceNumber", 0) or 0)
    position, plane = getattr(dataset, "ImagePositionPatient", None), getattr(dataset, "ImageOrientationPatient", None)
    if position is None or plane is None or len(position) != 3 or len(plane) != 6:
        return (0.0, number)
    normal = np.cross(np.array(plane[:3], float), np.array(plane[3:], float))
    return (float(np.dot(normal, np.array(position, float))), number)


def _stack(
    slices: list[tuple[np.ndarray[Any, Any], tuple[str, ...]]], what: str
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return slices of one size on top of each other, `[D * H, W]`; raises Reject for sizes that differ."""
    shapes = {pixels.shape for pixels, _ in slices}
    if len(shapes) > 1:
        raise Reject("bad_volume", f"{what} of different sizes: {sorted(shapes)}")
    steps = tuple(step for step in slices[0][1] if not step.startswith("frame "))
    return np.concatenate([pixels for pixels, _ in slices]), (*steps, f"volume: {len(slices)} {what} stacked downwards")
