"""ROCO and ROCOv2: radiology images of open-access articles with their captions.

ROCO: `data/{train,validation,test}/radiology/captions.txt` (id, tab, caption), `images/<id>.jpg` beside it; or the CSV form,
`{train,validation,test}/radiology/{split}data.csv` (id, name, caption). ROCOv2: `{train,valid,test}_captions.csv` (ID,
Caption), `{train,valid,test}_concepts.csv` (ID, CUIs joined by `;`) and `{train,valid,test}/<ID>.jpg`. The publishers' splits
are kept; ROCOv2's CUIs become labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.data.tables.read import open_text, rows
from vlp.sample import Sample

from .base import Record, Source, SourceError, safe_key, sources


@sources.register("roco")
class Roco(Source):
    name = "roco"
    version = "1 or 2, as found"
    licence = "CC BY, CC BY-NC or CC0 by image; see the publisher's licence table"
    homepage = "https://github.com/razorx89/roco-dataset"

    def records(self) -> Iterator[Record]:
        version_two = [(split, self.raw / f"{split}_captions.csv") for split in ("train", "valid", "test")]
        if any(path.is_file() for _, path in version_two):
            for split, path in version_two:
                if path.is_file():
                    yield from self._version_two(split, path)
            return
        found = False
        for split in ("train", "validation", "test"):
            for folder in (self.raw / "data" / split / "radiology", self.raw / split / "radiology"):
                if folder.is_dir():
                    found = True
                    yield from self._version_one(split, folder)
                    break
        if not found:
            raise SourceError(
                f"roco: {self.raw} has neither data/train/radiology (ROCO) nor train_captions.csv (ROCOv2)"
            )

    def _version_two(self, split: str, path: Path) -> Iterator[Record]:
        concepts = self.raw / f"{split}_concepts.csv"
        codes = {row["ID"]: row["CUIs"] for row in rows(concepts, ("ID", "CUIs"))} if concepts.is_file() else {}
        for row in rows(path, ("ID", "Caption")):
            data = {"file": f"{split}/{row['ID']}.jpg", "caption": row["Caption"], "codes": codes.get(row["ID"], "")}
            yield Record(key=safe_key(row["ID"]), split=split, data=data)

    def _version_one(self, split: str, folder: Path) -> Iterator[Record]:
        below = folder.relative_to(self.raw)
        table = next(iter(sorted(folder.glob("*data.csv"))), None)
        if table is not None:
            for row in rows(table, ("id", "name", "caption")):
                data = {"file": f"{below}/images/{row['name']}", "caption": row["caption"], "codes": ""}
                yield Record(key=safe_key(row["id"]), split=split, data=data)
            return
        with open_text(folder / "captions.txt") as file:
            for line in file:
                key, _, caption = line.rstrip("\r\n").partition("\t")
                if key:
                    data = {"file": f"{below}/images/{key}.jpg", "caption": caption, "codes": ""}
                    yield Record(key=safe_key(key), split=split, data=data)

    def sample(self, record: Record) -> Sample:
        data = record.data
        codes = [code.strip() for code in data["codes"].split(";") if code.strip()]
        return Sample(
            key=record.key,
            image=self.image(data["file"]),
            captions=(data["caption"].strip(),),
            labels=dict.fromkeys(sorted(codes), 1),
            source=self.name,
            licence=self.licence,
        )
