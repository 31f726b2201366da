"""Slices of volumes as pictures with what is marked on them (`vlp.modalities.volume.planes` says how they are looked at)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.volume.planes import AXES, CORONAL, NAMES, cut, greys, size_of
from vlp.modalities.volume.store import decode, is_volume
from vlp.modalities.volume.volume import Volume

from . import images
from .images import SIDE, data_uri


def picture(volume: Volume, plane: int, at: int) -> NDArray[np.uint8]:
    """Return a slice as RGB pixels [rows, columns, 3]."""
    return np.repeat(greys(cut(volume.voxels, plane, at), volume)[..., None], 3, axis=2)


def fitted(pixels: NDArray[np.uint8], size: tuple[float, float], side: int) -> NDArray[np.uint8]:
    """Return a slice of that height and width in its true proportions, the longer side of `side` pixels."""
    import cv2

    scale = side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    smaller = height < pixels.shape[0] or width < pixels.shape[1]
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def view(volume: Volume, plane: int, at: int, boxes: Sequence[Sequence[float]], side: int) -> dict[str, Any]:
    """Return a slice with the boxes that cross it, in the coordinates of its picture; `away`: those that it misses."""
    height, width = size_of(volume, plane)
    found: dict[str, Any] = {"image": data_uri(fitted(picture(volume, plane, at), (height, width), side))}
    found |= {"name": NAMES[plane], "width": width, "height": height, "boxes": [], "away": []}
    for box in boxes:
        found["boxes" if crosses(box, plane, at) else "away"].append(outline(volume, plane, box))
    return found


def crosses(box: Sequence[float], plane: int, at: int) -> bool:
    """Return whether a box of a volume crosses a slice."""
    return box[2 - plane] <= at + 0.5 < box[5 - plane]


def outline(volume: Volume, plane: int, box: Sequence[float]) -> list[float]:
    """Return where a box of a volume lies on a slice's picture: x1, y1, x2, y2."""
    low, high = on_picture(volume, plane, box[2::-1]), on_picture(volume, plane, box[:2:-1])
    return [*high, *low]


def on_picture(volume: Volume, plane: int, point: Sequence[float]) -> tuple[float, float]:
    """Return where a point (z, y, x) of a volume, on edges, lies on a slice's picture: across, down."""
    lengths = size_of(volume, plane)
    rest = [axis for axis in AXES if axis != plane]
    down, across = (length * (1 - point[axis] / volume.shape[axis]) for length, axis in zip(lengths, rest, strict=True))
    return float(across), float(down)


def thumbnail(image: bytes, side: int = SIDE) -> str:
    """Return an encoded image, of a volume the coronal slice through its middle, as a small data URI."""
    if not is_volume(image):
        return images.thumbnail(image, side)
    volume = decode(image)
    pixels = picture(volume, CORONAL, volume.shape[CORONAL] // 2)
    return data_uri(fitted(pixels, size_of(volume, CORONAL), side))
