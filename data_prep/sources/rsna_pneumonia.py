"""RSNA Pneumonia Detection Challenge (2018): 26,684 frontal radiographs as DICOM, boxes around lung opacities.

Layout: `stage_2_train_labels.csv` (patientId, x, y, width, height, Target; one row per box),
`stage_2_detailed_class_info.csv` (patientId, class) and `stage_2_train_images/<patientId>.dcm`. The published test images
have no labels; every image is of another patient as far as is published.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from .base import Radiographs, Record, grouped, sources

PLACE = ("x", "y", "width", "height")
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")


@sources.register("rsna_pneumonia")
class RsnaPneumonia(Radiographs):
    name = "rsna_pneumonia"
    version = "stage 2"
    licence = "Kaggle competition rules; images from NIH ChestX-ray14"
    homepage = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"

    def records(self) -> Iterator[Record]:
        table = rows(self.require("stage_2_train_labels.csv"), ("patientId", *PLACE, "Target"))
        detail = self.rows("stage_2_detailed_class_info.csv", ("class",))
        classes = {row["patientId"]: row["class"] for row in detail}
        for key, found in grouped(table, "patientId").items():
            boxes = [[row[edge] for edge in PLACE] for row in found if row["Target"] == "1"]
            yield Record(key=key, patient=key, data={"boxes": boxes, "class": classes.get(key, "")})

    def sample(self, record: Record) -> Sample:
        places, stated = record.data["boxes"], record.data["class"]
        labels = {"Pneumonia": int(bool(places))}
        if stated:
            labels |= {name: int(name == stated) for name in CLASSES}
        boxes = []
        for place in places:
            x, y, width, height = (float(value) for value in place)
            boxes.append(Box("pneumonia", (x, y, x + width, y + height), label="Pneumonia"))
        image = self.image(f"stage_2_train_images/{record.key}.dcm")
        return self.sample_of(record, image, labels=labels, boxes=tuple(boxes))
