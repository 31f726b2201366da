"""A map of a volume as a NIfTI file in the geometry of the file that the volume came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlp.core.config import ConfigError

from .phrase_maps import Map

if TYPE_CHECKING:
    from vlp.modalities.volume.volume import Volume


def write_nifti(path: Path, heat: Map, volume: Volume) -> None:
    """Write a map [D, H, W] of a volume in its file's order of axes, float32 with the file's affine, NaN where nothing is seen.

    An annotation tool shows it over the file as it is. Raises ConfigError without nibabel.
    """
    try:
        import nibabel
    except ImportError:
        raise ConfigError("maps as NIfTI need nibabel: install vlp's extra `volume`") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.axes.to_file(heat), np.float32), volume.file_affine())
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
