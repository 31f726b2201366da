"""CheXpert 5x200: 200 images that show exactly one of five findings, of each, with the impression of their report.

Layout: a list, `chexpert_5x200.csv` or `chexpert-5x200.csv` (`Path`, the 14 labels, `Report Impression`), and CheXpert's
images: `chexpert` is the folder above `CheXpert-v1.0*/`. There are several lists of this name (the official one, MGCA's,
MedCLIP's): scores on different lists are not comparable, so say which.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.core.config import config
from vlp.data.tables.labels import label_value
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..readers.chexpert import ids_of, places_of
from .base import Radiographs, Record, Reject, sources

LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
TABLES = ("chexpert_5x200.csv", "chexpert-5x200.csv")


@sources.register("chexpert5x200")
class Chexpert5x200(Radiographs):
    name = "chexpert5x200"
    version = "official list"
    licence = "Stanford University Dataset Research Use Agreement"
    homepage = "https://github.com/marshuang80/gloria"

    @config
    class Config:
        """`chexpert`: the folder that holds CheXpert's images (default: the raw folder itself)."""

        chexpert: Path | None = None

    def records(self) -> Iterator[Record]:
        for row in rows(self.require(*TABLES), ("Path", *LABELS)):
            yield Record(**ids_of(row["Path"]), split="test", data={"row": row})

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        labels = {name: label_value(row[name]) or 0 for name in LABELS}
        if sorted(labels.values()) != [0, 0, 0, 0, 1]:
            raise Reject("bad_label", f"expected exactly one of the five findings, found {labels}")
        text = row.get("Report Impression") or ""
        return self.sample_of(
            record,
            self.image(*places_of(row["Path"]), root=self.config.chexpert),
            report=f"IMPRESSION: {text}" if text else None,
            labels=labels,
        )
