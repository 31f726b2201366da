"""COVID-19 image data collection (ieee8023/covid-chestxray-dataset): radiographs and CT slices with clinical notes.

Layout: `metadata.csv` and `images/`; where present `annotations/imageannotation_ai_lung_bounding_boxes.json` (lung boxes,
COCO-like, x y width height) and `annotations/lungVAE-masks/<stem>_mask.png`. A reduced redistribution keeps masks in
`lung_masks/<stem>.png` and boxes, corners in pixels of its own images, in `pairs.jsonl`; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.core.untrusted import read_json, read_regular
from vlp.data.tables.boxes import corners, parse_boxes
from vlp.data.tables.cells import CellError
from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from ..images.modality_codes import modality_of
from ..images.store import image_size
from .base import Record, Reject, Source, safe_key, sources

BOXES = "annotations/imageannotation_ai_lung_bounding_boxes.json"
UNKNOWN = {"", "todo", "Unknown"}


@sources.register("covid_chestxray")
class CovidChestXray(Source):
    name = "covid_chestxray"
    version = "2020"
    licence = "per image, see the licence column"
    homepage = "https://github.com/ieee8023/covid-chestxray-dataset"
    no_text = "test"

    @config
    class Config:
        """`modality` keeps only "CR" (radiographs) or "CT"; `views` only the listed ones as the table has them (PA, AP, AP
        Supine, L, Axial, Coronal).
        """

        modality: str | None = None
        views: tuple[str, ...] = ()

    def records(self) -> Iterator[Record]:
        table = self.require("metadata.csv")
        columns = ("patientid", "finding", "view", "modality", "filename", "clinical_notes")
        findings = sorted({name for row in rows(table, columns) for name in _findings(row["finding"])})
        boxes, patients = self._annotations()
        for number, row in enumerate(rows(table, columns)):
            name = row["filename"]
            patient = patients.get(name, row["patientid"])
            yield Record(
                key=safe_key(Path(name).stem) if name else f"row{number}",
                patient=patient or None,
                study=f"{patient}-{row.get('offset') or name}",
                data={"row": row, "boxes": boxes.get(name, []), "findings": findings},
            )

    def _annotations(self) -> tuple[dict[str, list[Any]], dict[str, str]]:
        """Return boxes by file name as (phrase, xyxy, (height, width) they were drawn on), and merged patient ids."""
        boxes: dict[str, list[Any]] = {}
        patients: dict[str, str] = {}
        if (self.raw / BOXES).is_file():
            try:
                tree = read_json(self.raw / BOXES)
                names = {category["id"]: category["name"].lower() for category in tree["categories"]}
                images = {image["id"]: image for image in tree["images"]}
                for annotation in tree["annotations"]:
                    image = images[annotation["image_id"]]
                    xyxy, size = corners(annotation["bbox"], "xywh"), (image["height"], image["width"])
                    boxes.setdefault(image["file_name"], []).append((names[annotation["category_id"]], xyxy, size))
            except (ValueError, KeyError, TypeError, CellError) as error:
                raise ConfigError(f"{self.raw / BOXES}: not the COCO-like file as published ({error!r})") from None
        if (self.raw / "pairs.jsonl").is_file():
            for row in rows(self.raw / "pairs.jsonl", ("image",)):
                name = PurePosixPath(row["image"]).name
                found = parse_boxes(row.get("lung_boxes") or "")
                if found and name not in boxes:
                    boxes[name] = [(box.phrase, box.xyxy, None) for box in found]
                if row.get("patient_id_aliases"):
                    patients[name] = min([str(row["patient_id"]), *map(str, row["patient_id_aliases"])])
        return boxes, patients

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        modality, view = modality_of(row["modality"]), row["view"] or None
        if self.config.modality and modality != modality_of(self.config.modality):
            raise Reject("other_modality", str(modality), counted=False)
        if self.config.views and view not in self.config.views:
            raise Reject("other_view", str(view), counted=False)
        if row.get("folder") == "volumes":
            raise Reject("volume", f"{row['filename']} is a 3-D volume, not an image", counted=False)
        image = self.image(Path(row.get("folder") or "images") / row["filename"])
        return self.sample_of(
            record,
            image,
            report=row["clinical_notes"],
            modality=modality,
            view=view,
            labels=_labels(_findings(row["finding"]), record.data["findings"]),
            boxes=tuple(_boxes(record.data["boxes"], image)),
            masks=self._masks(Path(row["filename"]).stem),
            groups={"sex": row.get("sex"), "age": row.get("age"), "site": row.get("location")},
            licence=row.get("license") or "",
        )

    def _masks(self, stem: str) -> dict[str, bytes]:
        for name in (f"annotations/lungVAE-masks/{stem}_mask.png", f"lung_masks/{stem}.png"):
            path = self.path(name)
            if path.is_file():
                return {"lungs": read_regular(path)}
        return {}


def _findings(text: str) -> list[str]:
    """Return the parts of a finding: `Pneumonia/Viral/COVID-19` (2020-10 and later) or `COVID-19, ARDS` (earlier)."""
    parts = [part.strip() for part in re.split(r"[/,]", text)]
    return [part for part in parts if part not in UNKNOWN]


def _labels(stated: list[str], known: list[str]) -> dict[str, int]:
    """Return 1 for what is stated and 0 for what that rules out, nothing for what it leaves open.

    A diagnosis rules out the others, but an unspecified pneumonia may be any of them, and that a COVID-19 patient has
    pneumonia on this very image is not said in the older, flat form of the table.
    """
    labels = dict.fromkeys(stated, 1)
    if not stated:
        return {}
    for name in known:
        if name in labels:
            continue
        if stated == ["Pneumonia"] and name != "No Finding":
            continue
        if name == "Pneumonia" and stated != ["No Finding"]:
            continue
        labels[name] = 0
    return dict(sorted(labels.items()))


def _boxes(found: list[Any], image: Path) -> Iterator[Box]:
    for phrase, (x1, y1, x2, y2), size in found:
        height, width = image_size(image) if size else (1, 1)
        down, across = (height / size[0], width / size[1]) if size else (1.0, 1.0)
        yield Box(phrase, (x1 * across, y1 * down, x2 * across, y2 * down), label=phrase)
