"""What can be pointed at without looking: the mean box of a phrase's words, learnt from other patients' boxes.

"Small nodule in the right upper zone" names its own place; a grounding score means little without this beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.image.decode import image_size

from ..store import UnreadableError, in_words

if TYPE_CHECKING:
    from ..data import Data
    from .base import Context

Rectangle = tuple[float, float, float, float]
Key = tuple[str, str, str]
SIDE = re.compile(r"\b(bilateral\w*|both|left|right)\b", re.I)
ZONE = re.compile(
    r"\b(upper|apical|apex|mid|middle|midzone|lingula|lower|basal|base|bases|hilar|perihilar|retrocardiac|costophrenic)\b",
    re.I,
)
SAME = {
    "apical": "apex",
    "mid": "middle",
    "midzone": "middle",
    "lingula": "middle",
    "basal": "lower",
    "base": "lower",
    "bases": "lower",
    "perihilar": "hilar",
}
ENOUGH = 5
"""Fewer boxes than this for finding, side and zone: the mean over finding and side is taken, then over the finding."""


def place_of(phrase: str) -> tuple[str, str]:
    """Return the side and the zone that a phrase names, "" for none; both sides are one of their own."""
    sides = {one.lower() for one in SIDE.findall(phrase)}
    side = "" if not sides else next(iter(sides)) if len(sides) == 1 and sides <= {"left", "right"} else "both"
    zones = [SAME.get(one.lower(), one.lower()) for one in ZONE.findall(phrase)]
    return side, zones[0] if zones else ""


@dataclass(frozen=True)
class Prior:
    """Boxes, as fractions of the image, by what was said of them, with whose they are. `source` says where from."""

    boxes: dict[Key, NDArray[np.float64]]
    owners: dict[Key, list[str]]
    source: str
    own: Data | None

    @classmethod
    def learn(cls, context: Context, split: str | None, indices: Sequence[int]) -> Prior:
        """Collect the boxes of a split; where the data has no such split, of the scored images, each patient's own left out."""
        other = context.split(split) if split else None
        data, chosen = (other, other.usable()) if other is not None else (context.data, list(indices))
        sizes = _sizes(context, data, chosen)
        found: dict[Key, list[Rectangle]] = defaultdict(list)
        owners: dict[Key, list[str]] = defaultdict(list)
        for index, (height, width) in zip(chosen, sizes, strict=True):
            for box in data.records[index].boxes:
                label, (side, zone) = box.label or box.phrase, place_of(box.phrase)
                x1, y1, x2, y2 = box.xyxy
                for key in {(label, side, zone), (label, side, ""), (label, "", "")}:
                    found[key].append((x1 / width, y1 / height, x2 / width, y2 / height))
                    owners[key].append(data.patient(index))
        source = f"split {split}" if other is not None else "the other patients of this split"
        return cls({k: np.array(v) for k, v in found.items()}, dict(owners), source, None if other else context.data)

    def mean_box(self, label: str, phrase: str, bare: bool, patient: str) -> Rectangle | None:
        """Return the mean box of what a phrase says, as fractions; None where nothing like it was seen."""
        side, zone = ("", "") if bare else place_of(phrase)
        for key in ((label, side, zone), (label, side, ""), (label, "", "")):
            boxes = self.boxes.get(key)
            if boxes is None:
                continue
            if self.own is not None:
                boxes = boxes[[one != patient for one in self.owners[key]]]
            if len(boxes) >= (ENOUGH if key[1:] != ("", "") else 1):
                x1, y1, x2, y2 = boxes.mean(0).tolist()
                return x1, y1, x2, y2
        return None

    def map(self, label: str, phrase: str, bare: bool, index: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return the prior as a map [H, W] on an image, highest at the mean box's centre and flat outside of it."""
        patient = self.own.patient(index) if self.own is not None else ""
        box = self.mean_box(label, phrase, bare, patient)
        if box is None:
            return None
        height, width = size[0], size[1]
        x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        across = 1 - np.abs((np.arange(width) + 0.5 - (x1 + x2) / 2) / max(1.0, (x2 - x1) / 2))
        down = 1 - np.abs((np.arange(height) + 0.5 - (y1 + y2) / 2) / max(1.0, (y2 - y1) / 2))
        inside = np.minimum(across[None, :], down[:, None])
        return np.where(inside > 0, 1 + 0.01 * inside, 0).astype(np.float32)


def _sizes(context: Context, data: Data, indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return heights and widths of images: as encoded where that was done, else from the image's own header.

    Raises UnreadableError for images without one.
    """
    sizes: list[tuple[int, int]] = []
    bad: dict[str, str] = {}
    for index in indices:
        if data is context.data:
            geometry = context.store.geometry(data, index)
            sizes.append((geometry.height, geometry.width))
        elif data.records[index].boxes:
            try:
                sizes.append(image_size(data.image(index)))
            except (ValueError, OSError) as error:
                bad[data.records[index].key] = in_words(error)
        else:
            sizes.append((1, 1))
    if bad:
        raise UnreadableError(bad, data)
    return sizes
