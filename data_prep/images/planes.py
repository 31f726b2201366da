"""Pictures of stored volumes: three planes at right angles through a place, and a projection from the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp.modalities.volume import store
from vlp.modalities.volume.planes import AXES, NAMES, cut, greys, size_of
from vlp.modalities.volume.volume import Volume
from vlp.sample import Sample

Array = np.ndarray[Any, Any]
LEFT = ("R", "R", "A")
"""What lies on the left of each."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of a volume: `pixels` uint8 [H, W], `size` in millimetres (or voxels), masks and boxes on it by their number."""

    name: str
    left: str
    pixels: Array
    size: tuple[float, float]
    masks: tuple[tuple[int, Array], ...]
    boxes: tuple[tuple[int, tuple[float, ...]], ...]


def planes_of(sample: Sample, max_voxels: int = store.MAX_VOXELS) -> list[Plane]:
    """Return the three planes of a sample's volume through its first box, else its first mask, else its middle.

    Raises ImageError.
    """
    assert isinstance(sample.image, bytes)
    volume = store.decode(sample.image, max_voxels)
    masks = [store.decode_mask(mask, max_voxels) for mask in sample.masks.values()]
    centre = _centre(sample, volume, masks)
    found = []
    for axis, name, left in zip(AXES, NAMES, LEFT, strict=True):
        rows, columns = (other for other in AXES if other != axis)
        sides = volume.shape[rows], volume.shape[columns]
        boxes = []
        for number, box in enumerate(sample.boxes):
            low, high = box.xyxy[2::-1], box.xyxy[5:2:-1]  # z, y, x
            if low[axis] < centre[axis] + 1 and high[axis] > centre[axis]:
                edges = (columns, sides[1]), (rows, sides[0])
                flipped = [side - high[at] for at, side in edges], [side - low[at] for at, side in edges]
                boxes.append((number, (*flipped[0], *flipped[1])))
        found.append(
            Plane(
                name,
                left,
                greys(cut(volume.voxels, axis, centre[axis]), volume),
                size_of(volume, axis),
                tuple((number, cut(mask, axis, centre[axis])) for number, mask in enumerate(masks)),
                tuple(boxes),
            )
        )
    return found


def projection(data: bytes, max_voxels: int = store.MAX_VOXELS) -> Array:
    """Return a stored volume as it is seen from the front, its mean along that way, uint8 [H, W]; raises ImageError."""
    volume = store.decode(data, max_voxels)
    return greys(volume.voxels[:].mean(1)[::-1, ::-1], volume)


def _centre(sample: Sample, volume: Volume, masks: list[Array]) -> tuple[int, ...]:
    """Return the voxel (z, y, x) that the planes cross."""
    middle = [side // 2 for side in volume.shape]
    if sample.boxes:
        edges = sample.boxes[0].xyxy
        middle = [int((edges[at] + edges[at + 3]) / 2) for at in (2, 1, 0)]
    elif masks and masks[0].any():
        middle = [int(np.flatnonzero(masks[0].any(tuple({0, 1, 2} - {axis}))).mean()) for axis in range(3)]
    return tuple(min(max(place, 0), side - 1) for place, side in zip(middle, volume.shape, strict=True))
