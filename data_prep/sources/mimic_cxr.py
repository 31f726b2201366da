"""MIMIC-CXR: radiographs as JPEG (MIMIC-CXR-JPG) or DICOM (MIMIC-CXR), with free-text reports.

Layout: `mimic-cxr-2.*-{metadata,split,chexpert,negbio}.csv.gz` and `files/p10/p10000032/s50414267/<dicom_id>.jpg`; or
`cxr-record-list.csv.gz` and the same tree with `.dcm`. Reports lie in `files/p10/p10000032/s50414267.txt`, unpacked below
the raw folder or in `mimic-cxr-reports.zip`. The publisher's split is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from vlp.core.config import ConfigError, config
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..images.modality_codes import RADIOGRAPH
from ..readers.chexpert import CHEXPERT
from .base import Record, Reject, Source, decode_text, sources

REPORTS = ("mimic-cxr-reports.zip", "mimic-cxr-reports", "reports", ".")


@sources.register("mimic_cxr")
class MimicCxr(Source):
    name = "mimic_cxr"
    version = "2.1.0"
    licence = "PhysioNet Credentialed Health Data License 1.5.0"
    homepage = "https://physionet.org/content/mimic-cxr-jpg"
    modality = RADIOGRAPH

    @config
    class Config:
        """`reports`: the zip or the folder above `files/`, found below the raw folder unless named.

        `views`: only these (PA, AP, LATERAL, LL, ...); `labels`: which labeller's.
        """

        reports: Path | None = None
        views: tuple[str, ...] = ()
        labels: Literal["chexpert", "negbio", "none"] = "chexpert"

    def records(self) -> Iterator[Record]:
        split = self._table("split", ("dicom_id", "split"))
        splits = {row["dicom_id"]: row["split"] for row in rows(split)} if split else {}
        labels = self._labels()
        for row in self._images():
            subject, study = str(row["subject_id"]), str(row["study_id"])
            yield Record(
                key=row["dicom_id"],
                patient=f"p{subject}",
                study=f"s{study}",
                split=splits.get(row["dicom_id"]),
                data={"view": row.get("ViewPosition") or None, "labels": labels.get(study, ())},
            )

    def _images(self) -> Iterator[dict[str, Any]]:
        metadata = self._table("metadata", ("dicom_id", "subject_id", "study_id", "ViewPosition"))
        if metadata is not None:
            return rows(metadata)
        for name in ("cxr-record-list.csv.gz", "cxr-record-list.csv"):
            if (self.raw / name).is_file():
                return rows(self.raw / name, ("dicom_id", "subject_id", "study_id", "path"))
        raise ConfigError(
            f"mimic_cxr: {self.raw} has neither mimic-cxr-2.*-metadata.csv.gz nor cxr-record-list.csv.gz: is this the "
            "folder as published?"
        )

    def _table(self, kind: str, columns: tuple[str, ...]) -> Path | None:
        found = sorted(path for path in self.raw.glob(f"mimic-cxr-2.*-{kind}.csv*"))
        if not found:
            return None
        next(rows(found[-1], columns), None)
        return found[-1]

    def _labels(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """Return the label cells that are not empty, by study."""
        table = None if self.config.labels == "none" else self._table(self.config.labels, ("study_id", *CHEXPERT))
        return {
            str(row["study_id"]): tuple((name, row[name]) for name in CHEXPERT if row[name] != "")
            for row in (rows(table) if table else ())
        }

    def sample(self, record: Record) -> Sample:
        view = record.data["view"]
        if self.config.views and view not in self.config.views:
            raise Reject("other_view", str(view), counted=False)
        patient = str(record.patient)
        place = f"files/{patient[:3]}/{patient}/{record.study}"
        return self.sample_of(
            record,
            self.image(f"{place}/{record.key}.jpg", f"{place}/{record.key}.dcm"),
            report=self._report(f"{place}.txt"),
            view=view,
            labels=from_columns(dict(record.data["labels"]), CHEXPERT),
        )

    def _report(self, name: str) -> str:
        places = [self.config.reports] if self.config.reports else [self.raw / name for name in REPORTS]
        for place in places:
            if place.suffix == ".zip" and place.is_file():
                try:
                    return decode_text(self.member(place, name))
                except Reject as reject:
                    if reject.reason == "image_missing":
                        raise Reject("report_missing", f"no {name} in {place.name}") from None
                    raise
            if (place / name).is_file():
                return self.text(self.path(name, place))
        return ""
