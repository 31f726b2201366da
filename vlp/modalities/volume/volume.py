"""What a volume is, whatever file it came from: voxels in one orientation, and where they lie in the patient.

The array is [D, H, W] = [z, y, x] in RAS: D towards the head, H towards the front, W towards the patient's right. Readers turn
their files to that once; nothing behind them asks for an orientation again. A turn permutes and mirrors axes, it never
resamples: an oblique volume stays oblique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class FileAxes:
    """How the array of a file lies on the volume's: axis `order[i]` of the file is axis i here, mirrored where `flipped[i]`."""

    order: tuple[int, int, int] = (2, 1, 0)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def to_volume(self, array: np.ndarray) -> np.ndarray:
        """Return the file's array [i, j, k] as the volume's [z, y, x], a view."""
        turned = array.transpose(self.order)
        return turned[tuple(slice(None, None, -1 if flip else None) for flip in self.flipped)]

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Return a volume's array [z, y, x] in the order of the file's, a view: masks and maps go back as they came."""
        flipped = array[tuple(slice(None, None, -1 if flip else None) for flip in self.flipped)]
        return flipped.transpose(np.argsort(self.order))

    def indices(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the affine [4, 4] from a volume's indices (x, y, z, 1), `shape` [z, y, x], to its file's (i, j, k, 1)."""
        found = np.zeros((4, 4))
        found[3, 3] = 1.0
        for ours, (theirs, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            found[theirs, 2 - ours] = -1.0 if flip else 1.0
            found[theirs, 3] = shape[ours] - 1 if flip else 0.0
        return found


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels [D, H, W] and where they lie.

    `voxels`: int16 (HU of a CT) or float32, or whatever gives such an array when it is sliced: a stored volume is read in
    parts. `affine` [4, 4]: from (x, y, z, 1), the indices W, H, D of a voxel's centre, to millimetres in RAS. `modality`:
    its DICOM code. `range`: the .5 and 99.5 percentiles of the values above zero where these have no unit (MR). `axes` is
    how the file's array lay. `steps` says what was done to the values, in order.
    """

    voxels: Any
    affine: np.ndarray
    modality: str = "CT"
    range: tuple[float, float] | None = None
    axes: FileAxes = field(default_factory=FileAxes)
    steps: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        depth, height, width = self.voxels.shape
        return int(depth), int(height), int(width)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along D, H and W."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    def world(self, points: Any) -> np.ndarray:
        """Return points [..., 3] of the array, (z, y, x) on edges as `Geometry` has them, in millimetres (x, y, z) of RAS."""
        centres = np.asarray(points, np.float64)[..., ::-1] - 0.5
        return np.asarray(centres @ self.affine[:3, :3].T + self.affine[:3, 3])

    def file_affine(self) -> np.ndarray:
        """Return the affine of the file's own array [i, j, k]."""
        return np.asarray(self.affine @ np.linalg.inv(self.axes.indices(self.shape)))


@dataclass(frozen=True, slots=True)
class Picture(Volume):
    """A 2-D image where volumes are read: one slice, of no place in a patient, and its `pixels` [H, W] or [H, W, 3]."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros((1, 1), np.uint8))

    @classmethod
    def of(cls, pixels: np.ndarray) -> Picture:
        grey = pixels if pixels.ndim == 2 else pixels[..., 0]
        return cls(grey[None], np.eye(4), "OT", pixels=pixels)


def closest_axes(affine: np.ndarray) -> FileAxes:
    """Return how the array [i, j, k] of an affine lies on the volume in the RAS orientation that is closest.

    `affine` [4, 4] sends (i, j, k, 1) to millimetres in RAS. Each world axis takes the array axis that points along it
    most, the largest direction first, as nibabel's and ITK's closest orientations do. Raises ValueError where the affine
    does not span three dimensions.
    """
    linear = np.asarray(affine, np.float64)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    if not np.isfinite(linear).all() or spacing.min() <= 0 or np.linalg.matrix_rank(linear / spacing) < 3:
        raise ValueError(f"its axes span no space: affine {linear.round(4).tolist()}")
    direction = linear / spacing
    size, taken = np.abs(direction), {}
    for _ in range(3):
        world, axis = np.unravel_index(np.argmax(size), (3, 3))
        taken[int(world)] = int(axis)
        size[world, :] = size[:, axis] = -1
    order = (taken[2], taken[1], taken[0])
    flipped = tuple(bool(direction[world, taken[world]] < 0) for world in (2, 1, 0))
    return FileAxes(order, (flipped[0], flipped[1], flipped[2]))


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, FileAxes]:
    """Return a file's array [i, j, k] as [z, y, x] by its `closest_axes`, a view, with its affine, and these axes."""
    axes = closest_axes(affine)
    turned = axes.to_volume(array)
    return turned, np.asarray(affine @ axes.indices(turned.shape)), axes


def orientation(affine: np.ndarray) -> str:
    """Return the axis codes of an affine, such as LPS: the world direction that each array axis i, j, k points along most."""
    axes = closest_axes(affine)
    codes: Sequence[str] = ("SI", "AP", "RL")
    named = {
        theirs: codes[ours][flip] for ours, (theirs, flip) in enumerate(zip(axes.order, axes.flipped, strict=True))
    }
    return "".join(named[axis] for axis in range(3))
