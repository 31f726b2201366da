"""ROCO and ROCOv2: radiology images of open-access articles with their captions.

ROCO: `data/{train,validation,test}/radiology/captions.txt` (id, tab, caption), `images/<id>.jpg` beside it; or the CSV form,
`{train,validation,test}/radiology/{split}data.csv` (id, name, caption). ROCOv2: `{train,valid,test}_captions.csv` (ID,
Caption), `{train,valid,test}_concepts.csv` (ID, CUIs joined by `;`) and `{train,valid,test}/<ID>.jpg`. The publishers' splits
are kept; ROCOv2's CUIs become labels.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.core.config import ConfigError
from vlp.data.tables.read import open_text, rows
from vlp.sample import Sample

from .base import Record, Source, safe_key, sources


@sources.register("roco")
class Roco(Source):
    name = "roco"
    version = "1 or 2, as found"
    licence = "CC BY, CC BY-NC or CC0 by image; see the publisher's licence table"
    homepage = "https://github.com/razorx89/roco-dataset"

    def records(self) -> Iterator[Record]:
        found = False
        for split in ("train", "valid", "test"):
            if (self.raw / f"{split}_captions.csv").is_file():
                found = True
                yield from self._version_two(split)
        if found:
            return
        for split in ("train", "validation", "test"):
            folder = next(
                (name for name in (f"data/{split}/radiology", f"{split}/radiology") if (self.raw / name).is_dir()), ""
            )
            if folder:
                found = True
                yield from self._version_one(split, folder)
        if not found:
            raise ConfigError(
                f"roco: {self.raw} has neither data/train/radiology (ROCO) nor train_captions.csv (ROCOv2)"
            )

    def _version_two(self, split: str) -> Iterator[Record]:
        codes = {row["ID"]: row["CUIs"] for row in self.rows(f"{split}_concepts.csv", ("ID", "CUIs"))}
        for row in self.rows(f"{split}_captions.csv", ("ID", "Caption")):
            yield _record(split, row["ID"], f"{split}/{row['ID']}.jpg", row["Caption"], codes.get(row["ID"], ""))

    def _version_one(self, split: str, folder: str) -> Iterator[Record]:
        table = next(iter(sorted((self.raw / folder).glob("*data.csv"))), None)
        if table is not None:
            for row in rows(table, ("id", "name", "caption")):
                yield _record(split, row["id"], f"{folder}/images/{row['name']}", row["caption"])
            return
        with open_text(self.raw / folder / "captions.txt") as file:
            for line in file:
                key, _, caption = line.rstrip("\r\n").partition("\t")
                if key:
                    yield _record(split, key, f"{folder}/images/{key}.jpg", caption)

    def sample(self, record: Record) -> Sample:
        data = record.data
        codes = [code.strip() for code in data["codes"].split(";") if code.strip()]
        labels = dict.fromkeys(sorted(codes), 1)
        return self.sample_of(record, self.image(data["file"]), captions=(data["caption"].strip(),), labels=labels)


def _record(split: str, key: str, file: str, caption: str, codes: str = "") -> Record:
    return Record(key=safe_key(key), split=split, data={"file": file, "caption": caption, "codes": codes})
