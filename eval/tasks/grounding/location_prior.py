"""Location priors, which see no image: the mean box of a phrase's words, the mean mask, of other patients.

"Small nodule in the right upper zone" names its own place; a grounding score means little without this beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.image.decode import decode_mask, image_size

from ...data.dataset import UnreadableError
from ...data.spec import DataError
from ...failures import stable_message
from ..controls import Rectangle, box_map

if TYPE_CHECKING:
    from ...data.dataset import Data
    from ..base import Context

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
    sides = {word.lower() for word in SIDE.findall(phrase)}
    side = "" if not sides else next(iter(sides)) if len(sides) == 1 and sides <= {"left", "right"} else "both"
    zones = [SAME.get(word.lower(), word.lower()) for word in ZONE.findall(phrase)]
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
                boxes = boxes[[owner != patient for owner in self.owners[key]]]
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
        return box_map(box, size)


def _sizes(context: Context, data: Data, indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return heights and widths of images: as encoded where that was done, else from the image's own header.

    Raises UnreadableError for images without one.
    """
    sizes: list[tuple[int, int]] = []
    bad: dict[str, str] = {}
    for index in indices:
        if data is context.data:
            height, width = context.cache.geometry(data, index).source
            sizes.append((height, width))
        elif data.records[index].boxes:
            try:
                sizes.append(image_size(data.image(index)))
            except (ValueError, OSError) as error:
                bad[data.records[index].key] = stable_message(error)
        else:
            sizes.append((1, 1))
    if bad:
        raise UnreadableError(bad, data)
    return sizes


@dataclass(frozen=True)
class Truth:
    """A mask of a record, its pixels packed: the plans of all tasks are held from encoding to scoring."""

    index: int
    name: str
    shape: tuple[int, ...]
    bits: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        return np.unpackbits(self.bits, count=int(np.prod(self.shape))).reshape(self.shape).astype(bool)


@dataclass(frozen=True)
class MeanMask:
    """The mean mask [SIDE, SIDE] of a name over other patients, spread over an image: a segmentation that sees no image."""

    masks: dict[str, NDArray[np.float32]]
    owners: dict[str, list[str]]
    source: str
    own: Data | None

    SIDE: ClassVar[int] = 64

    @classmethod
    def learn(cls, context: Context, split: str | None, found: Sequence[Truth]) -> MeanMask:
        """Collect the masks of a split; where the data has none such, the scored ones, each patient's own left out."""
        other = context.split(split) if split else None
        names = sorted({truth.name for truth in found})
        size = (cls.SIDE, cls.SIDE)
        rows: list[tuple[str, str, NDArray[np.float32]]] = []
        if other is not None:
            there = ((index, name, mask_of(other, index, name)) for index in other.usable() for name in names)
            rows = [
                (other.patient(index), name, _resized(mask.astype(np.float32), size))
                for index, name, mask in there
                if mask is not None and mask.any()
            ]
            other = other if rows else None
        rows = rows or [
            (context.data.patient(truth.index), truth.name, _resized(truth.mask.astype(np.float32), size))
            for truth in found
        ]
        stacks = {name: np.stack([mask for _, of, mask in rows if of == name]) for name in {of for _, of, _ in rows}}
        owners = {name: [patient for patient, of, _ in rows if of == name] for name in stacks}
        source = f"split {split}" if other is not None else "the other patients of this split"
        return cls(stacks, owners, source, None if other is not None else context.data)

    def map(self, name: str, index: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return the mean mask as a map [H, W] on an image; None where no other patient has such a mask."""
        stack = self.masks.get(name)
        if stack is not None and self.own is not None:
            patient = self.own.patient(index)
            stack = stack[[owner != patient for owner in self.owners[name]]]
        if stack is None or not len(stack):
            return None
        return _resized(stack.mean(0), size)


def mask_of(data: Data, index: int, name: str) -> NDArray[np.bool_] | None:
    """Return a record's mask [H, W], or None; raises DataError naming one that does not decode."""
    content = data.mask(index, name)
    try:
        return decode_mask(content) if content is not None else None
    except (ValueError, OSError) as error:
        raise DataError(f"{data.name}: mask {name!r} of {data.records[index].key!r}: {error}") from None


def _resized(values: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    import cv2

    shape = (int(size[1]), int(size[0]))
    smaller = shape[0] < values.shape[1]
    return np.asarray(cv2.resize(values, shape, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR))
