"""Location priors, which see no image: the mean box of a phrase's words, the mean mask, of other patients.

"Small nodule in the right upper zone" names its own place; a grounding score means little without this beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.image.decode import decode_mask, image_size
from vlp.modalities.volume import store

from ...data.dataset import UnreadableError
from ...data.spec import DataError
from ...failures import stable_message
from ...maps.resize import resized
from ..controls import Rectangle, box_map
from .query import Query

if TYPE_CHECKING:
    from ...data.dataset import Data
    from ..base import Context

Key = TypeVar("Key")
Said = tuple[str, str, str]
"""A finding, a side and a zone, "" where a phrase names none."""
SIDES = {2: (64, 64), 3: (32, 32, 32)}
"""The shape of masks as they are collected, by their number of axes."""
SIDE = re.compile(r"\b(bilateral\w*|both|left|right)\b", re.I)
ZONE = re.compile(
    r"\b(upper|apical|apex|mid|middle|midzone|lingula|lower|basal|base|bases|hilar|perihilar|retrocardiac|costophrenic)\b",
    re.I,
)
SAME = {"apical": "apex", "perihilar": "hilar"} | dict.fromkeys(("mid", "midzone", "lingula"), "middle")
SAME |= dict.fromkeys(("basal", "base", "bases"), "lower")
ENOUGH = 5
"""Fewer boxes than this for finding, side and zone: the mean over finding and side is taken, then over the finding."""


def place_of(phrase: str) -> tuple[str, str]:
    """Return the side and the zone that a phrase names, "" for none; both sides are one of their own."""
    sides = {word.lower() for word in SIDE.findall(phrase)}
    side = "" if not sides else next(iter(sides)) if len(sides) == 1 and sides <= {"left", "right"} else "both"
    zones = [SAME.get(word.lower(), word.lower()) for word in ZONE.findall(phrase)]
    return side, zones[0] if zones else ""


@dataclass(frozen=True)
class Others(Generic[Key]):
    """What other patients show: arrays [n, ...] by key, with whose they are. `source` says where from.

    `own` is the scored data where the arrays are its own, so that each patient's are left out of what is asked for it.
    """

    rows: dict[Key, NDArray[Any]]
    owners: dict[Key, list[str]]
    source: str
    own: Data | None

    @classmethod
    def of(cls, context: Context, split: str | None, found: Iterable[tuple[Key, str, Any]]) -> Others[Key]:
        """Collect (key, patient, array) of a split, or of the scored data where `split` is None."""
        rows: dict[Key, list[Any]] = defaultdict(list)
        owners: dict[Key, list[str]] = defaultdict(list)
        for key, patient, array in found:
            rows[key].append(array)
            owners[key].append(patient)
        source = f"split {split}" if split is not None else "the other patients of this split"
        return cls(
            {key: np.stack(arrays) for key, arrays in rows.items()}, owners, source, None if split else context.data
        )

    def get(self, key: Key, index: int) -> NDArray[Any] | None:
        """Return the arrays that may stand for a scored record, one or more; None where there is none."""
        rows = self.rows.get(key)
        if rows is not None and self.own is not None:
            patient = self.own.patient(index)
            rows = rows[[owner != patient for owner in self.owners[key]]]
        return rows if rows is not None and len(rows) else None


def learn_boxes(context: Context, split: str | None, indices: Sequence[int]) -> Others[Said]:
    """Collect the boxes of a split, as fractions of the image, by what is said of them.

    Where the data has no such split, of the scored images, each patient's own left out.
    """
    other = context.split(split) if split else None
    data, chosen = (other, other.usable()) if other is not None else (context.data, list(indices))
    found: list[tuple[Said, str, Rectangle]] = []
    for index, shape in zip(chosen, _shapes(context, data, chosen), strict=True):
        for box in data.records[index].boxes:
            label, (side, zone) = box.label or box.phrase, place_of(box.phrase)
            place = tuple(edge / side for edge, side in zip(box.xyxy, shape[::-1] * 2, strict=True))
            found += [
                (key, data.patient(index), place) for key in {(label, side, zone), (label, side, ""), (label, "", "")}
            ]
    return Others.of(context, split if other is not None else None, found)


def map_of_boxes(boxes: Others[Said], query: Query, index: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return the mean box of what a phrase says as a map, flat outside of it; None where nothing like it was seen."""
    side, zone = ("", "") if query.bare else place_of(query.phrase)
    for key in ((query.label, side, zone), (query.label, side, ""), (query.label, "", "")):
        found = boxes.get(key, index)
        if found is not None and len(found) >= (ENOUGH if key[1:] != ("", "") else 1):
            return box_map(tuple(found.mean(0).tolist()), size)
    return None


def _shapes(context: Context, data: Data, indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of images: as encoded where that was done, else from the record or the image's own header.

    Raises UnreadableError for images without one.
    """
    shapes: list[tuple[int, ...]] = []
    bad: dict[str, str] = {}
    for index in indices:
        if data is context.data:
            shapes.append(context.cache.geometry(data, index).source)
        elif volume := data.records[index].volume:
            shapes.append(volume.shape)
        elif data.records[index].boxes:
            try:
                shapes.append(image_size(data.image(index)))
            except (ValueError, OSError) as error:
                bad[data.records[index].key] = stable_message(error)
        else:
            shapes.append((1, 1))
    if bad:
        raise UnreadableError(bad, data)
    return shapes


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


def learn_masks(context: Context, split: str | None, truths: Sequence[Truth]) -> Others[str]:
    """Collect the masks of a split by name, all of one shape; where the data has none such, the scored ones."""
    other = context.split(split) if split else None
    found: list[tuple[str, str, NDArray[np.float32]]] = []
    if other is not None:
        names = sorted({truth.name for truth in truths})
        for index, name in product(other.usable(), names):
            mask = mask_of(other, index, name)
            if mask is not None and mask.any():
                found.append((name, other.patient(index), resized(mask.astype(np.float32), SIDES[mask.ndim])))
    if found:
        return Others.of(context, split, found)
    own = ((truth.name, context.data.patient(truth.index), truth.mask.astype(np.float32)) for truth in truths)
    return Others.of(context, None, ((name, patient, resized(mask, SIDES[mask.ndim])) for name, patient, mask in own))


def map_of_masks(masks: Others[str], name: str, index: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return the mean mask as a map on an image; None where no other patient has such a mask."""
    found = masks.get(name, index)
    return None if found is None else resized(found.mean(0), size)


def mask_of(data: Data, index: int, name: str) -> NDArray[np.bool_] | None:
    """Return a record's mask [H, W] or [D, H, W], or None; raises DataError naming one that does not decode."""
    content = data.mask(index, name)
    try:
        if content is None:
            return None
        return store.decode_mask(content) if store.is_volume(content) else decode_mask(content)
    except (ValueError, OSError) as error:
        raise DataError(f"{data.name}: mask {name!r} of {data.records[index].key!r}: {error}") from None
