"""CheXpert (labels) and CheXpert Plus (reports as well), 224,316 chest radiographs from Stanford.

CheXpert: `train.csv`, `valid.csv` with `Path` (`CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`), `Sex`,
`Age`, `Frontal/Lateral`, `AP/PA` and 14 labels (1, 0, -1, blank); the radiologists' labels of the 500 test studies are given
out apart, as `test_labels.csv` or `groundtruth.csv` with `Path` and the labels, for images in `test/`.
CheXpert Plus: `df_chexpert_plus_240401.csv` with `path_to_image`, `section_findings`, `section_impression`, ..., images in
`PNG/`, labels in `chexbert_labels/*.json` (JSON lines).

Uncertain labels stay uncertain. `train` is split by patient into train and val; the publisher's 234 validation images (200
studies) stay whole: they are the test split, or part of val where the labels of the test set are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.core.config import config
from vlp.core.untrusted import open_regular, parse_object
from vlp.data.tables.labels import from_columns
from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..readers.chexpert import CHEXPERT, ids_of, places_of
from .base import LEARN, Radiographs, Record, Reject, sources

PLUS = "df_chexpert_plus_240401.csv"
LABELS = ("chexbert_labels/report_fixed.json", "chexbert_labels/impression_fixed.json", "report_fixed.json")
TEST = ("test.csv", "test_labels.csv", "groundtruth.csv")
SECTIONS = ("history", "clinical_history", "comparison", "technique", "findings", "impression", "summary")


@sources.register("chexpert")
class Chexpert(Radiographs):
    name = "chexpert"
    version = "1.0"
    licence = "Stanford University Dataset Research Use Agreement"
    homepage = "https://stanfordmlgroup.github.io/competitions/chexpert"

    @config
    class Config:
        """`frontal` leaves laterals out; `valid_as` is the split that the publisher's 234 validation images become.

        By default that is `val` where the labels of the test set are there, else `test`.
        """

        frontal: bool = False
        valid_as: str | None = None

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        self._plus = (self.raw / PLUS).is_file()
        self._test = None if self._plus else next((name for name in TEST if (self.raw / name).is_file()), None)
        self._valid_as = config.valid_as or ("val" if self._test else "test")

    def records(self) -> Iterator[Record]:
        yield from self._plus_records() if self._plus else self._plain_records()

    def _plain_records(self) -> Iterator[Record]:
        self.require("train.csv", "valid.csv", *TEST)
        about = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
        for split, table, columns in (
            ("train", "train.csv", about),
            ("valid", "valid.csv", about),
            ("test", self._test, ()),
        ):
            for row in self.rows(table, ("Path", *columns, *CHEXPERT)) if table else ():
                yield self._record(row["Path"], split, {"row": row, "labels": row})

    def _plus_records(self) -> Iterator[Record]:
        named = next((self.raw / name for name in LABELS if (self.raw / name).is_file()), None)
        labels = {
            line["path_to_image"]: {name: line[name] for name in CHEXPERT if line.get(name) not in ("", None)}
            for line in (_lines(named) if named else ())
        }
        columns = ("path_to_image", "frontal_lateral", "ap_pa", "sex", "age", "section_findings", "section_impression")
        wanted = (*columns, *(f"section_{section}" for section in SECTIONS))
        for row in rows(self.raw / PLUS, columns):
            path = row["path_to_image"]
            kept = {name: row[name] for name in wanted if name in row}
            split = row.get("split") or PurePosixPath(path).parts[0]
            yield self._record(path, split, {"row": kept, "labels": labels.get(path, {})})

    def _record(self, path: str, split: str, data: dict[str, Any]) -> Record:
        split = LEARN if split == "train" else self._valid_as if split == "valid" else split
        return Record(**ids_of(path), split=split, data={"path": path, **data})

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        named = record.key.rpartition("_")[2]  # the test set's table says it nowhere else
        side = str(row.get("Frontal/Lateral") or row.get("frontal_lateral") or named)
        if self.config.frontal and side.lower() != "frontal":
            raise Reject("other_view", side, counted=False)
        sex, age = row.get("Sex") or row.get("sex"), row.get("Age") or row.get("age")
        groups = {"sex": str(sex or "")[:1], "age": str(age or "").removesuffix(".0")}
        inner, below = places_of(record.data["path"])
        png = PurePosixPath(below).with_suffix(".png")
        return self.sample_of(
            record,
            self.image(inner, below, f"PNG/{png}", str(png)),
            report=_report(row),
            view=row.get("AP/PA") or row.get("ap_pa") or (side.upper() or None),
            labels=from_columns(record.data["labels"], CHEXPERT),
            groups={name: value for name, value in groups.items() if value != "U"},
            source="chexpert_plus" if self._plus else self.name,
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines whose name ends in .json."""
    with open_regular(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parse_object(line, f"{path}, line {number}")


def _report(row: dict[str, Any]) -> str:
    texts = {name: row.get(f"section_{name}") for name in SECTIONS}
    if not (texts["findings"] or texts["impression"] or texts["summary"]):
        return ""
    return "\n".join(f"{name.replace('_', ' ').upper()}: {text}" for name, text in texts.items() if text)
