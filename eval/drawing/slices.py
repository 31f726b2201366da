"""Slices of volumes as pictures, the way radiologists look at them: the patient's right, the front and the head come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.modalities.volume.store import MAX_VOXELS, decode
from vlp.modalities.volume.volume import Volume

from . import images
from .images import SIDE, data_uri

AXIAL, CORONAL, SAGITTAL = PLANES = (0, 1, 2)
"""The axis of [D, H, W] that a plane is cut across."""
NAMES = ("axial", "coronal", "sagittal")
START = b"b2frame"
SHADES = -1000.0, 400.0
"""HU that are black and white: lungs and soft tissue on one picture."""


def is_volume(data: bytes) -> bool:
    """Return whether the bytes of a record's image are a stored volume's."""
    return START in data[:16]


def open_volume(data: bytes) -> Volume:
    """Return a stored volume, of which a slice is decoded when it is drawn; raises ImageError."""
    return decode(data, MAX_VOXELS)


def cut(array: Any, plane: int, at: int) -> NDArray[Any]:
    """Return a slice of an array [D, H, W] as it is looked at: [rows, columns], both turned around."""
    place = tuple(at if axis == plane else slice(None) for axis in PLANES)
    return np.asarray(np.asarray(array[place])[::-1, ::-1])


def picture(volume: Volume, plane: int, at: int) -> NDArray[np.uint8]:
    """Return a slice as RGB pixels [rows, columns, 3]."""
    low, high = SHADES if volume.modality == "CT" else volume.range or (0.0, 1.0)
    values = (cut(volume.voxels, plane, at).astype(np.float32) - low) / max(high - low, 1e-6)
    grey = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def size_of(volume: Volume, plane: int) -> tuple[float, float]:
    """Return a slice's height and width: millimetres, or voxels where the spacing is unknown."""
    lengths = np.array(volume.shape) * (volume.spacing if min(volume.spacing) > 0 else (1.0, 1.0, 1.0))
    height, width = (float(length) for axis, length in enumerate(lengths) if axis != plane)
    return height, width


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
        low, high = on_picture(volume, plane, box[2::-1]), on_picture(volume, plane, box[:2:-1])
        crosses = box[2 - plane] <= at + 0.5 < box[5 - plane]
        found["boxes" if crosses else "away"].append([high[0], high[1], low[0], low[1]])
    return found


def on_picture(volume: Volume, plane: int, point: Sequence[float]) -> tuple[float, float]:
    """Return where a point (z, y, x) of a volume, on edges, lies on a slice's picture: across, down."""
    lengths = size_of(volume, plane)
    rest = [axis for axis in PLANES if axis != plane]
    down, across = (length * (1 - point[axis] / volume.shape[axis]) for length, axis in zip(lengths, rest, strict=True))
    return float(across), float(down)


def thumbnail(image: bytes, side: int = SIDE) -> str:
    """Return an encoded image, of a volume the coronal slice through its middle, as a small data URI."""
    if not is_volume(image):
        return images.thumbnail(image, side)
    volume = open_volume(image)
    pixels = picture(volume, CORONAL, volume.shape[CORONAL] // 2)
    return data_uri(fitted(pixels, size_of(volume, CORONAL), side))
