"""Volumes on their way into a shard: checked, and stored as one blosc2 array with its place in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume import store
from vlp.modalities.volume.volume import Volume, orientation
from vlp.sample import VolumeInfo, Voxels

from .store import Stored


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
    info = VolumeInfo(
        volume.shape,
        volume.spacing,
        tuple(tuple(round(number, 6) for number in row) for row in volume.affine[:3].tolist()),
        orientation(volume.file_affine()),
        "HU" if volume.modality == "CT" else "none",
    )
    return StoredVolume(data, volume.shape, (1.0, 1.0, 1.0), volume.steps, info)


def store_volume_mask(mask: bytes, name: str, stored: Stored) -> bytes:
    """Return a mask's bytes for the shard; raises ImageError for one of another size than its volume."""
    inside = store.decode_mask(mask, max_voxels=1 << 40)
    if inside.shape != stored.shape:
        sizes = f"is {' x '.join(map(str, inside.shape))}, its volume {' x '.join(map(str, stored.shape))}"
        raise ImageError(f"{name!r} {sizes} (D x H x W): masks are never stretched", "bad_mask")
    return store.encode_mask(inside)
