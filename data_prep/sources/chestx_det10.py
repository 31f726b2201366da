"""ChestX-Det10: 3,543 images of ChestX-ray14 with boxes that three radiologists drew around ten findings.

Layout: `train.json` and `test.json`, each a list of `{"file_name": "00000042_006.png", "syms": ["Fibrosis", ...], "boxes":
[[x1, y1, x2, y2], ...]}` with one box for each name, both empty where nothing was found; images in `train_data/` and
`test_data/` as unpacked from the publisher's archives, or in `images/` (they are ChestX-ray14's own). What precedes the
first `_` of a file's name is the patient of ChestX-ray14.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.data.tables.boxes import corners
from vlp.sample import Box, Sample

from .base import LEARN, Radiographs, Record, Reject, sources

LABELS = (
    "Atelectasis",
    "Calcification",
    "Consolidation",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Fracture",
    "Mass",
    "Nodule",
    "Pneumothorax",
)


@sources.register("chestx_det10")
class ChestxDet10(Radiographs):
    name = "chestx_det10"
    version = "2020"
    licence = "annotations: see the publisher's page; images: no restrictions, credit the NIH Clinical Center"
    homepage = "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset"

    def records(self) -> Iterator[Record]:
        self.require("train.json", "test.json")
        for part, split in (("train", LEARN), ("test", "test")):
            for row in self.rows(f"{part}.json", ("file_name", "syms", "boxes")):
                name = str(row["file_name"])
                data = {"row": row, "part": part}
                yield Record(name.removesuffix(".png"), data, patient=name.partition("_")[0], split=split)

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        names, places = list(row["syms"] or ()), list(row["boxes"] or ())
        unknown = sorted(set(names) - set(LABELS))
        if unknown:
            raise Reject("bad_label", f"unknown findings: {', '.join(map(str, unknown))}")
        if len(names) != len(places):
            raise Reject("bad_box", f"{len(names)} names for {len(places)} boxes")
        file, part = row["file_name"], record.data["part"]
        return self.sample_of(
            record,
            self.image(f"{part}_data/{file}", f"images/{file}", f"{part}/{file}"),
            labels={name: int(name in names) for name in LABELS},
            boxes=tuple(Box(name.lower(), corners(place), name) for name, place in zip(names, places, strict=True)),
        )
