"""Volumes on their way into a shard: checked, and stored as one blosc2 array with its place in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume import store
from vlp.modalities.volume.hounsfield import histogram
from vlp.modalities.volume.options import VolumeOptions
from vlp.modalities.volume.read import read_mask
from vlp.modalities.volume.volume import Volume, orientation
from vlp.sample import HU_EDGES, Box, VolumeInfo, Voxels

from .store import Stored

FACE = "may show a face"
"""The step of a volume of a head, of which a face can be rendered."""
_TISSUE = -300
_HEAD = ((100.0, 190.0), (120.0, 260.0))
"""What a head measures across and from front to back, in millimetres, ears and nose included."""


@dataclass(frozen=True, slots=True)
class StoredVolume(Stored):
    """A volume as it goes into the shard, and what its record says of it."""

    info: VolumeInfo | None = None


def store_volume(volume: Voxels, max_voxels: int) -> StoredVolume:
    """Return a volume's bytes for the shard, read back and compared; raises ImageError with the reason."""
    if not isinstance(volume, Volume):
        raise TypeError(f"expected a Volume, found {type(volume).__name__}")
    if volume.voxels.size > max_voxels:
        sides = " x ".join(map(str, volume.shape))
        raise ImageError(f"{sides} voxels, more than the limit of {max_voxels} (image.max_voxels)", "image_too_large")
    data = store.encode(volume)
    if not np.array_equal(store.decode(data, max_voxels).voxels[:], volume.voxels):
        raise ImageError("the stored volume reads back as another: report this", "volume_not_stored")
    is_ct = volume.modality == "CT"  # int16, as the reader makes them
    info = VolumeInfo(
        volume.shape,
        volume.spacing,
        tuple(tuple(round(number, 6) for number in row) for row in volume.affine[:3].tolist()),
        orientation(volume.file_affine()) if min(volume.spacing) > 0 else "unknown",
        "HU" if is_ct else "none",
        _histogram(volume.voxels) if is_ct else (),
    )
    steps = (*volume.steps, FACE) if shows_head(volume) else volume.steps
    return StoredVolume(data, volume.shape, (1.0, 1.0, 1.0), steps, info)


def _histogram(voxels: Any) -> tuple[int, ...]:
    """Return how many int16 voxels lie below, between and above `HU_EDGES`."""
    places = [0, *(edge + (1 << 15) for edge in HU_EDGES)]
    return tuple(np.add.reduceat(histogram(voxels[:]), places).tolist())


def shows_head(volume: Volume) -> bool:
    """Return whether the upper end of a volume is as wide and deep as a head, with air around it.

    A guess for a warning: shoulders are wider, necks narrower, and what the field of view cuts is not judged. A brain whose
    skull was taken out and a knee may pass for one.
    """
    if min(volume.spacing) <= 0:
        return False
    low, high = volume.range or (0.0, 1.0)
    tissue = _TISSUE if volume.modality == "CT" else low + 0.15 * (high - low)
    depth, height, width = volume.shape
    spacing_z, spacing_y, spacing_x = volume.spacing
    top = max(1, round(min(depth, 160 / spacing_z)))
    found = 0
    planes = np.linspace(depth - top, depth - 1, 9).round().astype(int)
    for plane in (volume.voxels[int(index)] > tissue for index in planes):
        rows, columns = np.flatnonzero(plane.mean(1) > 0.02), np.flatnonzero(plane.mean(0) > 0.02)
        if not len(rows) or rows[0] == 0 or columns[0] == 0 or rows[-1] == height - 1 or columns[-1] == width - 1:
            continue
        across, along = (columns[-1] - columns[0] + 1) * spacing_x, (rows[-1] - rows[0] + 1) * spacing_y
        found += _HEAD[0][0] <= across <= _HEAD[0][1] and _HEAD[1][0] <= along <= _HEAD[1][1]
    return found >= 4


def masks_of(path: Path, places: Mapping[str, str], volume: Volume, options: VolumeOptions) -> dict[str, bytes]:
    """Return the masks in a file as they are stored beside their volume; raises ImageError for one of another geometry.

    `places` are name to place, as the table of the set names it; `path#5` is where a file of several holds 5.
    """
    labels = read_mask(path, volume, VolumeOptions(orientation=options.orientation, spacing=options.spacing))
    values = {name: place.rpartition("#")[2] if "#" in place else "" for name, place in places.items()}
    return {
        name: store.encode_mask(labels == int(value) if value.isdigit() else labels != 0)
        for name, value in values.items()
    }


def turned(box: Box, volume: Volume) -> Box:
    """Return a box in voxels of the file's array (i, j, k, edges), turned as the array was; raises ImageError."""
    if len(box.xyxy) != 6:
        raise ImageError(
            f"a box of {len(box.xyxy)} numbers for a volume: expected six, the low corner i, j, k and the high one",
            "bad_box",
        )
    low, high = [], []
    for side, theirs, flip in zip(volume.shape, volume.axes.order, volume.axes.flipped, strict=True):
        first, last = box.xyxy[theirs], box.xyxy[theirs + 3]
        low.append(side - last if flip else first)
        high.append(side - first if flip else last)
    return replace(box, xyxy=(*reversed(low), *reversed(high)))


def store_volume_mask(mask: bytes, name: str, stored: Stored) -> bytes:
    """Return a mask's bytes for the shard; raises ImageError for one of another size than its volume."""
    inside = store.decode_mask(mask, max_voxels=1 << 40)
    if inside.shape != stored.shape:
        sizes = f"is {' x '.join(map(str, inside.shape))}, its volume {' x '.join(map(str, stored.shape))}"
        raise ImageError(f"{name!r} {sizes} (D x H x W): masks are never stretched", "bad_mask")
    return store.encode_mask(inside)


def besides_voxels(data: bytes) -> list[str]:
    """Return the names of what a stored volume or mask holds that is not its voxels or their place, where a name may stand."""
    import blosc2

    try:
        array = blosc2.ndarray_from_cframe(data, deserialize="safe")
        kept = {name: array.schunk.vlmeta[name] for name in array.schunk.vlmeta}
        names = [name for name in kept.get(store.META, {}) if name not in store.RECORD]
        return [*(name for name in kept if name != store.META), *names]
    except (RuntimeError, ValueError, KeyError, TypeError):
        return ["damaged volume"]
