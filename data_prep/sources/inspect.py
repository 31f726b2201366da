"""INSPECT: about 23,000 CT pulmonary angiographies with impressions.

Layout, in folders of any depth: `CTPA/<image_id>.nii.gz` and tables with a date in their names, of which the newest counts:
`study_mapping_<date>.tsv` (impression_id, image_id), `impressions_<date>.tsv` (impression_id, impressions),
`splits_<date>.tsv` (impression_id, split). A study is an impression; there are no findings. The publisher's split is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, read_yaml
from vlp.data.tables.cells import identity
from vlp.data.tables.read import Row, columns_of, rows
from vlp.sample import Sample

from .base import Record, Source, grouped, sources

BROKEN = {name: why for why, names in read_yaml(Path(__file__).with_suffix(".yaml")).items() for name in names}
SPLITS = {"valid": "val", "validation": "val"}
_HEADING = re.compile(r"(?i)^\s*IMPRESSIONS?\s*:\s*")
PATIENT = ("person_id", "patient_id")


@sources.register("inspect")
class Inspect(Source):
    name = "inspect"
    licence = "Stanford research use agreement, no redistribution"
    homepage = "https://stanfordaimi.azurewebsites.net"
    modality = "CT"
    language = "en"

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        mapping, impressions, splits = (self._newest(name) for name in ("study_mapping", "impressions", "splits"))
        texts = {
            _id(row): str(row["impressions"]).strip() for row in rows(impressions, ("impression_id", "impressions"))
        }
        sides = {_id(row): str(row["split"]) for row in rows(splits, ("impression_id", "split"))}
        column = next((name for name in PATIENT if name in columns_of(mapping)), None)
        files = {path.name.removesuffix(".nii.gz"): path for path in sorted(self.raw.rglob("*.nii.gz"))}
        images = grouped(rows(mapping, ("impression_id", "image_id")), "image_id")
        for image, found in images.items():
            yield self._record(image, found, files.get(image), texts, sides, column)
        for image in sorted(files.keys() - images.keys()):
            problem = ("file_without_row", f"{mapping.name} has no row of it", True)
            yield Record(image, {"file": self._place(files[image]), "problem": problem})

    def _record(
        self,
        image: str,
        found: Sequence[Row],
        file: Path | None,
        texts: dict[str, str],
        sides: dict[str, str],
        column: str | None,
    ) -> Record:
        """Return the record of an image, which may have several rows."""
        studies = sorted({_id(row) for row in found})
        data: dict[str, Any] = {
            "file": self._place(file) if file else f"CTPA/{image}.nii.gz",
            "text": texts.get(studies[0], ""),
        }
        if image in BROKEN:
            data["problem"] = ("broken_volume", f"known to be unusable: {BROKEN[image]}", False)
        elif len({texts.get(study, "") for study in studies}) > 1:
            data["problem"] = ("two_reports", f"{len(studies)} impressions for one image", True)
        patient = identity(found[0][column], column) if column else None
        split = sides.get(studies[0])
        return Record(image, data, patient, studies[0], SPLITS.get(split or "", split))

    def _newest(self, name: str) -> Path:
        """Return the table whose name has the latest date; raises ConfigError."""
        dated = [(re.sub(r"\D", "", path.stem), path) for path in self.raw.rglob(f"{name}_*.tsv")]
        if not dated:
            raise ConfigError(f"inspect: {self.raw} has no {name}_<date>.tsv: is this the folder as published?")
        return max(dated)[1]

    def _place(self, path: Path) -> str:
        return path.relative_to(self.raw).as_posix()

    def sample(self, record: Record) -> Sample:
        self.refuse(record)
        data = record.data
        volume = self.volume(self.image(data["file"]))
        return self.sample_of(record, volume, report=data["text"] and f"IMPRESSION: {_HEADING.sub('', data['text'])}")


def _id(row: Row) -> str:
    return identity(row["impression_id"], "impression_id") or ""
