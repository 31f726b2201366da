"""The .npz files of Rad-ChestCT: one array `ct`, in HU, and nothing that says how it lies."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from vlp.core.errors import first_line
from vlp.core.untrusted import open_regular

from ...image.errors import ImageError
from ..options import FileArray, VolumeOptions, affine_of, check_size

CODES, SPACING = "IPL", (0.8, 0.8, 0.8)
"""From the top, the front and the right; in millimetres."""


def read_npz(path: Path, max_voxels: int, options: VolumeOptions) -> FileArray:
    """Return the array `ct` of an .npz of Rad-ChestCT, its header read before it is unpacked; raises ImageError or OSError."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open("ct.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, kind = read(member)
            if len(shape) != 3 or kind.kind not in "iuf":
                raise ImageError(f"`ct` is {list(shape)} of {kind}: expected three axes of numbers", "no_volume")
            check_size(shape, max_voxels)
            size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
            data = member.read(size)
    except KeyError:
        raise ImageError("holds no array `ct`: expected an .npz of Rad-ChestCT", "no_volume") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"truncated or damaged: {first_line(error)}", "image_truncated") from None
    if len(data) < size:
        raise ImageError(f"ends after {len(data)} of {size} bytes of voxels", "image_truncated")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if is_fortran else "C")
    if options.orientation:
        return FileArray(array, None, SPACING)
    if shape[1] != shape[2] and shape[0] in shape[1:]:
        raise ImageError(
            f"`ct` is {' x '.join(map(str, shape))}: the planes of {CODES} are square, so these axes have another order; "
            "name it by the option `orientation`",
            "axis_order",
        )
    return FileArray(array, affine_of(CODES, SPACING, shape), SPACING)
