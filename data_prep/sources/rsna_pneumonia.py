"""RSNA Pneumonia Detection Challenge (2018): 26,684 frontal radiographs as DICOM, boxes around lung opacities.

Layout: `stage_2_train_labels.csv` (patientId, x, y, width, height, Target; one row per box),
`stage_2_detailed_class_info.csv` (patientId, class) and `stage_2_train_images/<patientId>.dcm`. The published test images
have no labels; every image is of another patient as far as is published.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from ..images.modality_codes import RADIOGRAPH
from .base import Record, Source, sources

CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")


@sources.register("rsna_pneumonia")
class RsnaPneumonia(Source):
    name = "rsna_pneumonia"
    version = "stage 2"
    licence = "Kaggle competition rules; images from NIH ChestX-ray14"
    homepage = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    no_text = "keep"

    def records(self) -> Iterator[Record]:
        images: dict[str, list[tuple[str, ...]]] = {}
        table = self.require("stage_2_train_labels.csv")
        for row in rows(table, ("patientId", "x", "y", "width", "height", "Target")):
            box = tuple(row[name] for name in ("x", "y", "width", "height"))
            images.setdefault(row["patientId"], []).append((row["Target"], *box))
        detail = self.raw / "stage_2_detailed_class_info.csv"
        classes = {row["patientId"]: row["class"] for row in rows(detail, ("class",))} if detail.is_file() else {}
        for key, found in images.items():
            yield Record(key=key, patient=key, data={"rows": found, "class": classes.get(key, "")})

    def sample(self, record: Record) -> Sample:
        found = record.data["rows"]
        labels = {"Pneumonia": int(any(target == "1" for target, *_ in found))}
        if record.data["class"]:
            labels |= {name: int(name == record.data["class"]) for name in CLASSES}
        boxes = []
        for target, *place in found:
            if target == "1":
                x, y, width, height = (float(value) for value in place)
                boxes.append(Box("pneumonia", (x, y, x + width, y + height), label="Pneumonia"))
        return Sample(
            key=record.key,
            image=self.image(f"stage_2_train_images/{record.key}.dcm"),
            patient=record.patient,
            modality=RADIOGRAPH,
            labels=labels,
            boxes=tuple(boxes),
            source=self.name,
            licence=self.licence,
        )
