"""ChestX-Det10: 3,543 images of ChestX-ray14 with boxes that three radiologists drew around ten findings.

Layout: `train.json` and `test.json`, each a list of `{"file_name": "00000042_006.png", "syms": ["Fibrosis", ...], "boxes":
[[x1, y1, x2, y2], ...]}` with one box for each name, both empty where nothing was found; images in `train_data/` and
`test_data/` as unpacked from the publisher's archives, or in `images/` (they are ChestX-ray14's own). What precedes the
first `_` of a file's name is the patient of ChestX-ray14.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.data.tables.boxes import corners
from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from ..images.modality_codes import RADIOGRAPH
from .base import LEARN, Record, Reject, Source, SourceError, sources

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
class ChestxDet10(Source):
    name = "chestx_det10"
    version = "2020"
    licence = "annotations: see the publisher's page; images: no restrictions, credit the NIH Clinical Center"
    homepage = "https://github.com/Deepwise-AILab/ChestX-Det10-Dataset"
    no_text = "keep"

    def records(self) -> Iterator[Record]:
        found = [name for name in ("train", "test") if (self.raw / f"{name}.json").is_file()]
        if not found:
            raise SourceError(
                f"{self.name}: {self.raw} has no train.json or test.json: is this the folder as published?"
            )
        for part in found:
            for row in rows(self.raw / f"{part}.json", ("file_name", "syms", "boxes")):
                name = str(row["file_name"])
                yield Record(
                    key=name.removesuffix(".png"),
                    patient=name.partition("_")[0],
                    split="test" if part == "test" else LEARN,
                    data={"row": row, "part": part},
                )

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        names, places = list(row["syms"] or ()), list(row["boxes"] or ())
        unknown = sorted(set(names) - set(LABELS))
        if unknown:
            raise Reject("bad_label", f"unknown findings: {', '.join(map(str, unknown))}")
        if len(names) != len(places):
            raise Reject("bad_box", f"{len(names)} names for {len(places)} boxes")
        boxes = [Box(name.lower(), corners(place), label=name) for name, place in zip(names, places, strict=True)]
        file = row["file_name"]
        return Sample(
            key=record.key,
            image=self.image(f"{record.data['part']}_data/{file}", f"images/{file}", f"{record.data['part']}/{file}"),
            patient=record.patient,
            modality=RADIOGRAPH,
            labels={name: int(name in names) for name in LABELS},
            boxes=tuple(boxes),
            source=self.name,
            licence=self.licence,
        )
