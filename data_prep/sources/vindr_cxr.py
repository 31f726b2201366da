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
from vlp.sample import Box, Sample

from .base import LEARN, Radiographs, Record, grouped, sources

OVERLAP = 0.5
XYXY = ("x_min", "y_min", "x_max", "y_max")


@sources.register("vindr_cxr")
class VindrCxr(Radiographs):
    name = "vindr_cxr"
    version = "1.0.0"
    licence = "PhysioNet Credentialed Health Data License 1.5.0"
    homepage = "https://physionet.org/content/vindr-cxr"

    @config
    class Config:
        """`readers`: how many of a training image's three readers must state a label or a box for it to count."""

        readers: int = 1

    def records(self) -> Iterator[Record]:
        self.require("annotations")
        for split in ("train", "test"):
            table = self.rows(f"annotations/image_labels_{split}.csv", ("image_id",))
            boxes = grouped(
                self.rows(f"annotations/annotations_{split}.csv", ("image_id", "class_name", *XYXY)), "image_id"
            )
            for key, found in grouped(table, "image_id").items():
                votes = [
                    {name: row[name] for name in row if name not in ("image_id", "rad_id", "rad_ID")} for row in found
                ]
                places = [
                    (row["class_name"], *(row[edge] for edge in XYXY))
                    for row in boxes.get(key, ())
                    if row["x_min"] != ""
                ]
                yield Record(
                    key=key,
                    patient=key,
                    split="test" if split == "test" else LEARN,
                    data={"split": split, "votes": votes, "boxes": places},
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
        return self.sample_of(
            record,
            self.image(f"{split}/{record.key}.dicom", f"{split}/{record.key}.dcm"),
            labels=labels,
            boxes=tuple(Box(name.lower(), place, label=name) for name, place in merged),
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


def overlap(box: Place, other: Place) -> float:
    """Return intersection over union of two boxes, xyxy."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(place[2] - place[0]) * (place[3] - place[1]) for place in (box, other)]
    return width * height / (sum(areas) - width * height)
