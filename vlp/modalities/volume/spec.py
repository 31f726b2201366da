"""What a model expects of a volume: the `volume` section of a recipe, in the place of `image`."""

from __future__ import annotations

from typing import Literal

from vlp.core.config import config

from ..image.spec import ImageSpec
from .store import MAX_VOXELS

WINDOWS = {
    "lung": (-600.0, 1500.0),
    "narrow_lung": (-850.0, 400.0),
    "mediastinum": (40.0, 400.0),
    "bone": (400.0, 1800.0),
    "liver": (60.0, 160.0),
    "brain": (40.0, 80.0),
    "whole": (0.0, 2000.0),
}
"""Level and width in HU of the windows that have a name."""

AIR = -1024.0
"""What lies beyond a CT's field of view, in HU."""


@config
class VolumeSpec:
    """What the model expects of a volume; lengths are in the array's order: depth (to the head), height, width.

    `spacing` in millimetres, to which every axis is brought: shrinking takes the mean of what a voxel covers, enlarging is
    linear. `size`: the box in voxels that is cut out of the middle, or padded with air. `windows`: one channel each, by
    name (`lung`, `narrow_lung`, `mediastinum`, `bone`, `liver`, `brain`, `whole`) or as `level/width` in HU; of an MR none:
    its values are brought to [0, 1] by the .5 and 99.5 percentiles of each volume. `mean` and `std` are of values in
    [0, 1], one or one a channel. Volumes of more than `max_voxels` are refused. `image`: how 2-D images are read, as volumes
    of one slice beside the others, in batches of their own; None for volumes alone.
    """

    spacing: tuple[float, float, float] = (3.0, 1.5, 1.5)
    size: tuple[int, int, int] = (112, 224, 224)
    windows: tuple[str, ...] = ("lung", "mediastinum", "bone")
    modality: Literal["CT", "MR"] = "CT"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    max_voxels: int = MAX_VOXELS
    image: ImageSpec | None = None

    def __post_init__(self) -> None:
        if min(self.spacing) <= 0:
            raise ValueError(f"spacing must be positive millimetres, found {self.spacing}")
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, found {self.size}")
        if self.modality == "MR" and self.windows:
            raise ValueError("windows are of Hounsfield units, an MR has none: leave them empty (windows: [])")
        if self.modality == "CT" and not self.windows:
            raise ValueError(f"windows: a CT needs at least one, of {', '.join(WINDOWS)} or level/width")
        for name in self.windows:
            window_of(name)
        for values in (self.mean, self.std):
            if len(values) not in (1, self.channels) or min(self.std) <= 0:
                raise ValueError(
                    f"mean and std take one value or {self.channels}, std positive: {self.mean}, {self.std}"
                )

        if self.image is not None and (self.image.size, self.image.size) != self.size[1:]:
            raise ValueError(f"image.size must be the height and width of size {self.size}, found {self.image.size}")
        if self.image is not None and self.image.channels not in (1, self.channels):
            raise ValueError(f"image.channels must be 1 or that of the windows, {self.channels}: {self.image.channels}")

    @property
    def channels(self) -> int:
        return max(1, len(self.windows))

    @property
    def pad_value(self) -> float:
        return AIR if self.modality == "CT" else 0.0


def window_of(name: str) -> tuple[float, float]:
    """Return level and width in HU of a window, by name or as `level/width`; raises ValueError."""
    if name in WINDOWS:
        return WINDOWS[name]
    level, _, width = name.partition("/")
    try:
        found = float(level), float(width)
    except ValueError:
        raise ValueError(
            f"window {name!r}: expected one of {', '.join(WINDOWS)}, or level/width such as -600/1500"
        ) from None
    if not found[1] > 0:
        raise ValueError(f"window {name!r}: the width must be positive")
    return found
