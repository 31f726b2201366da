"""Quilt-1M: histopathology images with captions from educational videos, articles and posts.

Layout: `quilt_1M_lookup.csv` (caption, image_path, subset, split, pathology, roi_text, magnification, height, width, ...; a
row per caption) and `quilt_1m/<image_path>`. Rows of one image become one sample with several captions; images of one video
stay on one side of a split where the publisher made none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlp.data.tables.read import rows
from vlp.sample import Sample

from .base import Record, Source, safe_key, sources

FOLDERS = ("quilt_1m", "images", ".")


@sources.register("quilt1m")
class Quilt1M(Source):
    name = "quilt1m"
    version = "1"
    licence = "research only, see the publisher's agreement"
    homepage = "https://github.com/wisdomikezogwo/quilt1m"
    modality = "SM"

    def records(self) -> Iterator[Record]:
        # one row per caption, not sorted by image: texts are kept until the table has been read to its end
        images: dict[str, list[str]] = {}
        splits: dict[str, str] = {}
        for row in rows(self.require("quilt_1M_lookup.csv"), ("caption", "image_path", "split")):
            images.setdefault(row["image_path"], []).append(row["caption"])
            splits[row["image_path"]] = row["split"]
        for name, captions in images.items():
            stem = Path(name).stem
            yield Record(
                key=safe_key(stem),
                study=stem.partition("_image_")[0],
                split=splits[name] or None,
                data={"file": name, "captions": captions},
            )

    def sample(self, record: Record) -> Sample:
        name = record.data["file"]
        captions = dict.fromkeys(caption.strip() for caption in record.data["captions"] if caption.strip())
        image = self.image(*(f"{folder}/{name}" for folder in FOLDERS))
        return self.sample_of(record, image, captions=tuple(captions))
