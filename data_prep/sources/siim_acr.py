"""SIIM-ACR Pneumothorax Segmentation (2019): radiographs as DICOM with run-length masks of 1024 x 1024.

Layout: `train-rle.csv` (ImageId, ` EncodedPixels`: stage 1 has blanks before the column's name and before -1) or
`stage_2_train.csv`, and `dicom-images-train/<study>/<series>/<ImageId>.dcm`. An image with several lesions has several rows;
all of them make one mask, so that no image is on two sides of a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlp.data.tables.read import rows
from vlp.sample import Sample

from ..images.store import encode
from .base import Radiographs, Record, Reject, sources

SIDE = 1024


@sources.register("siim_acr")
class SiimAcr(Radiographs):
    name = "siim_acr"
    version = "stage 1"
    licence = "Kaggle competition rules; images from NIH ChestX-ray14"
    homepage = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"

    def records(self) -> Iterator[Record]:
        table = self.require("train-rle.csv", "stage_2_train.csv")
        runs: dict[str, list[str]] = {}
        for row in rows(table, ("ImageId", "EncodedPixels")):
            runs.setdefault(row["ImageId"].strip(), []).append(row["EncodedPixels"].strip())
        files = {path.stem: path for path in sorted(self.raw.rglob("*.dcm"))}
        for key, found in runs.items():
            place = files.get(key)
            name = str(place.relative_to(self.raw)) if place else ""
            yield Record(key=key.replace(".", "_"), patient=key, data={"id": key, "file": name, "runs": found})

    def sample(self, record: Record) -> Sample:
        if not record.data["file"]:
            raise Reject("image_missing", f"no {record.data['id']}.dcm below the raw folder")
        runs = [run for run in record.data["runs"] if run != "-1"]
        masks = {}
        if runs:
            inside = np.zeros((SIDE, SIDE), bool)
            for run in runs:
                inside |= decode_rle(run, SIDE, SIDE)
            masks["pneumothorax"] = encode(inside.astype(np.uint8) * 255, "png")
        labels = {"Pneumothorax": int(bool(runs))}
        return self.sample_of(record, self.image(record.data["file"]), labels=labels, masks=masks)


def decode_rle(text: str, height: int, width: int) -> np.ndarray[Any, Any]:
    """Return the mask `[height, width]` bool of a run-length code as SIIM writes them; raises Reject.

    Pairs of start and length; a start counts from the end of the run before; the order is down the columns.
    """
    try:
        numbers = [int(part) for part in text.split()]
    except ValueError:
        raise Reject("bad_mask", f"run-length code with something else than numbers: {text[:40]!r}") from None
    if len(numbers) % 2:
        raise Reject("bad_mask", f"run-length code with {len(numbers)} numbers, expected pairs")
    flat = np.zeros(height * width, bool)
    at = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        at += start
        if start < 0 or length < 0 or at + length > flat.size:
            raise Reject("bad_mask", f"run-length code leaves the image of {width} x {height}")
        flat[at : at + length] = True
        at += length
    return flat.reshape(width, height).T
