"""VinDr-CXR: 18,000 frontal radiographs as DICOM with boxes and labels; three readers for train, a consensus for test.

Layout (PhysioNet): `train/<image_id>.dicom`, `test/<image_id>.dicom`, `annotations/annotations_{train,test}.csv` (image_id,
class_name, x_min, y_min, x_max, y_max; rad_id in train) and `annotations/image_labels_{train,test}.csv` (image_id, rad_id in
train, 28 labels). Train is merged over its readers: a label is present when at least `readers` say so, and boxes of one class
that overlap by half become their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlp.core.config import config
from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from ..images.modality_codes import RADIOGRAPH
from .base import LEARN, Record, Source, sources

OVERLAP = 0.5
XYXY = ("x_min", "y_min", "x_max", "y_max")


@sources.register("vindr_cxr")
class VindrCxr(Source):
    name = "vindr_cxr"
    version = "1.0.0"
    licence = "PhysioNet Credentialed Health Data License 1.5.0"
    homepage = "https://physionet.org/content/vindr-cxr"
    no_text = "keep"

    @config
    class Config:
        """`readers`: how many of a training image's three readers must state a label or a box for it to count."""

        readers: int = 1

    def records(self) -> Iterator[Record]:
        self.require("annotations")
        for split in ("train", "test"):
            labels_table = self.raw / "annotations" / f"image_labels_{split}.csv"
            if not labels_table.is_file():
                continue
            votes: dict[str, list[dict[str, str]]] = {}
            for row in rows(labels_table, ("image_id",)):
                stated = {name: value for name, value in row.items() if name not in ("image_id", "rad_id", "rad_ID")}
                votes.setdefault(row["image_id"], []).append(stated)
            boxes: dict[str, list[tuple[str, ...]]] = {}
            table = self.raw / "annotations" / f"annotations_{split}.csv"
            for row in rows(table, ("image_id", "class_name", *XYXY)) if table.is_file() else ():
                if row["x_min"] != "":
                    place = (row["class_name"], *(row[name] for name in XYXY))
                    boxes.setdefault(row["image_id"], []).append(place)
            for key, said in votes.items():
                yield Record(
                    key=key,
                    patient=key,
                    split="test" if split == "test" else LEARN,
                    data={"split": split, "votes": said, "boxes": boxes.get(key, [])},
                )

    def sample(self, record: Record) -> Sample:
        split, votes = record.data["split"], record.data["votes"]
        least = min(self.config.readers, len(votes))
        labels = {name: int(sum(float(vote[name] or 0) == 1 for vote in votes) >= least) for name in votes[0]}
        found = [
            (name, (float(place[0]), float(place[1]), float(place[2]), float(place[3])))
            for name, *place in record.data["boxes"]
        ]
        merged = [(name, mean) for name, mean, members in merge_boxes(found) if members >= least]
        return Sample(
            key=record.key,
            image=self.image(f"{split}/{record.key}.dicom", f"{split}/{record.key}.dcm"),
            patient=record.patient,
            modality=RADIOGRAPH,
            labels=labels,
            boxes=tuple(Box(name.lower(), place, label=name) for name, place in merged),
            source=self.name,
            licence=self.licence,
        )


Place = tuple[float, float, float, float]


def merge_boxes(boxes: list[tuple[str, Place]]) -> list[tuple[str, Place, int]]:
    """Return (class, mean box, how many) of the boxes of one class that overlap the first of their group by half."""
    groups: list[tuple[str, list[Place]]] = []
    for name, place in boxes:
        for other, members in groups:
            if other == name and overlap(members[0], place) >= OVERLAP:
                members.append(place)
                break
        else:
            groups.append((name, [place]))
    return [(name, _mean(members), len(members)) for name, members in groups]


def _mean(places: list[Place]) -> Place:
    columns: Any = [sum(values) / len(places) for values in zip(*places, strict=True)]
    return (columns[0], columns[1], columns[2], columns[3])


def overlap(one: Place, other: Place) -> float:
    """Return intersection over union of two boxes, xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)
