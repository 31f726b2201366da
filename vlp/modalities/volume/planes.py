"""Planes of a volume as pictures, the way radiologists look at them: axial from the feet, coronal from the front, the patient's
right on the left; sagittal with the front on the left; the head above."""

from __future__ import annotations

from typing import Any

import numpy as np

from .volume import Volume

AXES = AXIAL, CORONAL, SAGITTAL = (0, 1, 2)
"""The axis of [D, H, W] that a plane is cut across."""
NAMES = ("axial", "coronal", "sagittal")
GREYS = (-1000.0, 400.0)
"""HU that become black and white of a CT: lung and soft tissue are both seen."""


def cut(array: Any, axis: int, at: int) -> np.ndarray:
    """Return a plane of an array [D, H, W] as it is looked at: [rows, columns], both turned around."""
    plane = np.asarray(array[tuple(at if other == axis else slice(None) for other in AXES)])
    return np.ascontiguousarray(plane[::-1, ::-1])


def greys(values: np.ndarray, volume: Volume) -> np.ndarray:
    """Return values of a volume as greys, uint8."""
    low, high = GREYS if volume.range is None else volume.range
    shown: np.ndarray = np.clip((values.astype(np.float32) - low) * (255 / max(high - low, 1e-6)), 0, 255)
    return shown.astype(np.uint8)


def size_of(volume: Volume, axis: int) -> tuple[float, float]:
    """Return a plane's height and width: millimetres, or voxels where the spacing is unknown."""
    spacing = volume.spacing if min(volume.spacing) > 0 else (1.0, 1.0, 1.0)
    height, width = (volume.shape[other] * spacing[other] for other in AXES if other != axis)
    return height, width
