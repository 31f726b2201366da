"""A volume's file, or a folder of DICOM slices, to a `Volume`: the one reader of preparation, scoring and `from_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..image.errors import ImageError
from .volume import Volume

NIFTI = (".nii", ".nii.gz")


def read_volume(path: Path, max_voxels: int, **options: Any) -> Volume:
    """Return the volume of a file or folder. Raises ImageError."""
    raise ImageError(f"{path.name}: no volume that is read")
