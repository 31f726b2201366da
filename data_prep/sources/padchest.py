"""PadChest: 160,868 radiographs from Alicante with Spanish reports and labels in English, 27 % of them by physicians.

Layout: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (.gz) with `ImageID`, `ImageDir`, `StudyID`, `PatientID`,
`PatientBirth`, `PatientSex_DICOM`, `Projection`, `MethodLabel`, `Report`, `Labels` (a Python list as text),
`StudyDate_DICOM`, and 16-bit PNG in `<ImageDir>/<ImageID>`, unpacked or in `<ImageDir>.zip`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp.core.config import config
from vlp.data.tables.cells import CellError
from vlp.data.tables.labels import names_in
from vlp.data.tables.read import rows
from vlp.sample import Sample

from .base import Radiographs, Record, Reject, safe_key, sources

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "MethodLabel", "Report", "Labels")


@sources.register("padchest")
class PadChest(Radiographs):
    name = "padchest"
    version = "2019-02-01"
    licence = "PadChest dataset research use agreement"
    homepage = "https://bimcv.cipf.es/bimcv-projects/padchest"
    language = "es"

    @config
    class Config:
        """`physician`: only images labelled by physicians; `projections`: only these (PA, L, AP, AP_horizontal, ...).

        `report`: the Spanish text as it is (lower case, words cut to their stems), or none.
        A label that a row does not list is absent in it.
        """

        physician: bool = False
        projections: tuple[str, ...] = ()
        report: bool = True

    def records(self) -> Iterator[Record]:
        table = self.require(f"{TABLE}.gz", TABLE)
        names = sorted({name for row in rows(table, COLUMNS) for name in _labels(row)})
        for row in rows(table, COLUMNS):
            yield Record(
                key=safe_key(row["ImageID"].removesuffix(".png")),
                patient=str(row["PatientID"]) or None,
                study=str(row["StudyID"]) or None,
                data={"row": {name: row.get(name, "") for name in (*COLUMNS, *DEMOGRAPHICS)}, "names": names},
            )

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        if self.config.physician and row["MethodLabel"] != "Physician":
            raise Reject("not_by_physician", row["MethodLabel"], counted=False)
        if self.config.projections and row["Projection"] not in self.config.projections:
            raise Reject("other_view", row["Projection"], counted=False)
        stated = _labels(row)
        if not stated:
            raise Reject("bad_label", f"no labels: {row['Labels']!r}")
        return self.sample_of(
            record,
            self._image(row),
            report=row["Report"] if self.config.report else None,
            view=row["Projection"] or None,
            labels={name: int(name in stated) for name in record.data["names"]},
            groups={"sex": row["PatientSex_DICOM"], "age": _age(row), "labelled_by": row["MethodLabel"].lower()},
        )

    def _image(self, row: dict[str, Any]) -> Path | bytes:
        folder = str(row["ImageDir"]).removesuffix(".0")
        archive = self.path(f"{folder}.zip")
        if archive.is_file():
            return self.member(archive, row["ImageID"])
        return self.image(f"{folder}/{row['ImageID']}", f"images/{row['ImageID']}", row["ImageID"])


_NAN = re.compile(r"(?<![\w'])nan(?![\w'])")
DEMOGRAPHICS = ("PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM")


def _labels(row: dict[str, Any]) -> list[str]:
    """Return the labels of a row, lower case and stripped; a list that cannot be read has none."""
    try:
        found = names_in(_NAN.sub("''", str(row["Labels"])))
    except CellError:
        return []
    return [name for name in dict.fromkeys(label.lower().strip() for label in found) if name]


def _age(row: dict[str, Any]) -> str:
    """Return the age in years from the year of birth and the date of the study; neither is kept."""
    born, study = str(row["PatientBirth"]).removesuffix(".0"), str(row["StudyDate_DICOM"]).removesuffix(".0")
    if not (born.isdigit() and study[:4].isdigit() and len(born) == 4):
        return ""
    years = int(study[:4]) - int(born)
    return "" if not 0 <= years < 130 else "90+" if years >= 90 else str(years)
