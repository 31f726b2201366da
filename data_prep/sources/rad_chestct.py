"""Rad-ChestCT: 3,630 chest CTs with labels of 84 abnormalities at 52 places, and no reports.

Layout: `<id>.npz` in folders of any depth, id `trn`, `val` or `tst` and five digits; `Summary_3630.csv` (whose scan it is);
`img{train,valid,test}_Abnormality_and_Location_Labels.csv` with 84 x 52 columns `abnormality*location`. The arrays go from
the top, the front and the right, .8 mm apart, which the files do not say. The publisher's split is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from vlp.core.config import ConfigError, config, read_yaml
from vlp.data.tables.labels import label_value
from vlp.data.tables.read import columns_of, rows
from vlp.sample import Sample

from .base import Record, Source, sources

STANDARD: dict[str, list[str]] = read_yaml(Path(__file__).with_suffix(".yaml"))["standard"]
SPLITS = {"trn": "train", "val": "val", "tst": "test"}
_ID = re.compile(r"(trn|val|tst)\d{5}")


@sources.register("rad_chestct")
class RadChestCt(Source):
    name = "rad_chestct"
    licence = "CC BY-NC-ND 4.0"
    homepage = "https://zenodo.org/records/6406114"
    modality = "CT"
    no_text = "keep"

    @config
    class Config:
        """`labels`: the findings of CT-RATE that 26 of the abnormalities stand for (standard), or all 84 by their own names."""

        labels: Literal["standard", "all"] = "standard"

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        files = {path.stem: path.relative_to(self.raw).as_posix() for path in sorted(self.raw.rglob("*.npz"))}
        if not files:
            raise ConfigError(f"rad_chestct: no .npz below {self.raw}: is this the folder as published?")
        labels = self._labels()
        patients = {row["NoteAcc_DEID"]: row["MRN_DEID"] for row in self._summary()}
        for name in sorted(files.keys() | patients.keys()):
            match = _ID.fullmatch(name)
            data: dict[str, Any] = {"file": files.get(name, f"{name}.npz"), "labels": labels.get(name, {})}
            if match is None:
                data["problem"] = ("bad_row", "expected an id such as trn00001", True)
            yield Record(name, data, patients.get(name), name, SPLITS[match[1]] if match else None)

    def _summary(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.raw.glob("Summary*.csv")):
            yield from rows(path, ("NoteAcc_DEID", "MRN_DEID"))

    def _labels(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for path in sorted(self.raw.rglob("img*_Abnormality_and_Location_Labels.csv")):
            places: dict[str, list[str]] = {}
            for column in columns_of(path):
                if "*" in column:
                    places.setdefault(column.partition("*")[0], []).append(column)
            wanted = STANDARD if self.config.labels == "standard" else {name: [name] for name in places}
            missing = {part for parts in wanted.values() for part in parts} - places.keys()
            if missing:
                raise ConfigError(
                    f"{path}: no columns of {', '.join(sorted(missing))}: is this the table as published?"
                )
            columns = {name: [column for part in parts for column in places[part]] for name, parts in wanted.items()}
            for row in rows(path, ("NoteAcc_DEID",)):
                found[row["NoteAcc_DEID"]] = {name: _anywhere(row, parts) for name, parts in columns.items()}
        if not found:
            raise ConfigError(f"rad_chestct: {self.raw} has no img*_Abnormality_and_Location_Labels.csv")
        return found

    def sample(self, record: Record) -> Sample:
        self.refuse(record)
        volume = self.volume(self.image(record.data["file"]))
        return self.sample_of(record, volume, labels=record.data["labels"])


def _anywhere(row: dict[str, Any], columns: Sequence[str]) -> int:
    """Return 1 where one of the columns holds it: a published 0 says that the report does not mention it there."""
    return int(any(row[column] != "0" and label_value(row[column], column) == 1 for column in columns))
