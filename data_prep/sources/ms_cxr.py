"""MS-CXR: 1,162 phrases of 8 findings with boxes drawn by radiologists on images of MIMIC-CXR.

Layout: `MS_CXR_Local_Alignment_v1.1.0.csv` (category_name, label_text, path, x, y, w, h, image_width, image_height,
dicom_id, split from 1.1.0 on; older versions have no split). The images are MIMIC-CXR-JPG's: `mimic` is the folder above its
`files/`. One sample per image, with every phrase and its boxes. Most images are in MIMIC's train split: a model that was
pretrained on it has seen them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.core.config import ConfigError, config
from vlp.data.tables.read import rows
from vlp.sample import Box, Sample

from ..images.store import image_size
from .base import Radiographs, Record, grouped, sources

COLUMNS = ("category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height", "dicom_id")


@sources.register("ms_cxr")
class MsCxr(Radiographs):
    name = "ms_cxr"
    version = "1.1.0"
    licence = "PhysioNet Credentialed Health Data License 1.5.0"
    homepage = "https://physionet.org/content/ms-cxr"

    @config
    class Config:
        """`mimic`: the folder of MIMIC-CXR-JPG (default: the raw folder itself)."""

        mimic: Path | None = None

    def records(self) -> Iterator[Record]:
        tables = sorted(self.raw.glob("MS_CXR_Local_Alignment_v*.csv"))
        if not tables:
            raise ConfigError(
                f"ms_cxr: {self.raw} has no MS_CXR_Local_Alignment_v*.csv: is this the folder as published?"
            )
        for key, found in grouped(rows(tables[-1], COLUMNS), "dicom_id").items():
            parts = Path(found[0]["path"]).parts
            yield Record(
                key=key,
                patient=parts[-3] if len(parts) > 2 else None,
                study=parts[-2] if len(parts) > 1 else None,
                split=found[0].get("split") or "test",
                data={"rows": found},
            )

    def sample(self, record: Record) -> Sample:
        found = record.data["rows"]
        image = self.image(found[0]["path"], root=self.config.mimic)
        height, width = image_size(image)
        boxes = []
        for row in found:
            across, down = width / float(row["image_width"]), height / float(row["image_height"])
            x, y, w, h = (float(row[name]) for name in ("x", "y", "w", "h"))
            place = (x * across, y * down, (x + w) * across, (y + h) * down)
            boxes.append(Box(row["label_text"], place, label=row["category_name"]))
        labels = dict.fromkeys(sorted({row["category_name"] for row in found}), 1)
        return self.sample_of(record, image, labels=labels, boxes=tuple(boxes))
