"""How a volume's file is read where it does not say all, and what a reader hands on before it is turned and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlp.core.config import config

from ..image.errors import ImageError

LEAST = 8
"""Slices of a volume: a stack of fewer is a set of pictures."""
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@config
class VolumeOptions:
    """What is said of a file beside the file, and what may be done to one that is not regular."""

    orientation: str = ""
    """Where the axes i, j, k of a volume's array point (LPS, IPL), instead of what the header says; with spacing."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres between voxels to the head, front and right (z, y, x), instead of what the header says."""
    volume: int | None = None
    """Which of the volumes of a 4-D file, or of the series in a folder, from 0."""
    gaps: Literal["refuse", "fill", "resample"] = "refuse"
    """Missing slices: fill puts interpolated ones there, resample interpolates any slices onto their median gap."""
    tilt: Literal["refuse", "resample"] = "refuse"
    """Slices that lie aslant of their stack (a gantry tilt): resample brings them onto a straight one."""
    rescale: tuple[float, float] | None = None
    """Slope and intercept that a table has and the file lacks."""
    modality: str = ""
    """Modality of volumes whose files name none (CT where nothing is said), and of the series that are read."""

    def __post_init__(self) -> None:
        axes = {frozenset((letter, OPPOSITE.get(letter, ""))) for letter in self.orientation}
        if self.orientation and (
            len(self.orientation) != 3 or len(axes) != 3 or not set(self.orientation) <= set(OPPOSITE)
        ):
            raise ValueError(
                f"orientation {self.orientation!r}: expected three letters, one of R L, A P, S I each, as LPS"
            )
        if self.spacing and min(self.spacing) <= 0:
            raise ValueError(f"spacing must be positive millimetres, found {self.spacing}")
        if self.volume is not None and self.volume < 0:
            raise ValueError(f"volume counts from 0, found {self.volume}")


@dataclass(frozen=True, slots=True)
class FileArray:
    """What a file holds: its array [i, j, k] as it lies there, and what its header says of it.

    `affine` [4, 4] to millimetres in RAS, None where the header names no orientation; `spacing` along i, j, k, where it
    names one. A voxel's value is `scale[0] * stored + scale[1]`, and `is_scaled` says that
    the file's own slopes are applied already; `modality` is "" where the file has none.
    """

    array: np.ndarray
    affine: np.ndarray | None
    spacing: tuple[float, ...] | None = None
    scale: tuple[float, float] = (1.0, 0.0)
    is_scaled: bool = False
    modality: str = ""
    steps: tuple[str, ...] = ()


def affine_of(codes: str, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Return the affine of an array whose axes point where `codes` say, its middle at 0; `spacing` along i, j, k."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(codes):
        world = next(number for number, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[world, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def corners_of(shape: tuple[int, ...]) -> np.ndarray:
    """Return the indices of an array's eight corner voxels as columns (i, j, k, 1), [4, 8], the first (0, 0, 0, 1)."""
    return np.array(np.meshgrid(*((0, side - 1) for side in shape), [1], indexing="ij")).reshape(4, -1)


def check_size(shape: tuple[int, ...], max_voxels: int) -> None:
    """Raise ImageError for an array without voxels or of more than allowed."""
    count = 1
    for side in shape:
        count *= int(side)
    if min(shape) < 1 or count > max_voxels:
        raise ImageError(
            f"a volume of {' x '.join(map(str, shape))} voxels, the limit is {max_voxels} (max_voxels)",
            "volume_too_large" if min(shape) > 0 else "bad_header",
        )


def axes_error(shape: tuple[int, ...]) -> ImageError:
    """Return the error of an array that has not three axes."""
    sides = " x ".join(map(str, shape)) or "no axes"
    return ImageError(f"an array of {sides}: expected three axes; a volume needs at least {LEAST} slices", "no_volume")


def pick(count: int, options: VolumeOptions, what: str) -> int:
    """Return which of several volumes the options name; raises ImageError, `what` being all that there are."""
    if options.volume is None or options.volume >= count:
        missing = "" if options.volume is None else f", and `volume: {options.volume}` is none of them"
        raise ImageError(
            f"{what}{missing}: say which one is read by the option `volume: i`, from 0 to {count - 1}",
            "several_volumes",
        )
    return options.volume
