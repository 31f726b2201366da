"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files to their array and affine, by SimpleITK.

Both may name other files to hold their voxels, by any path: here these lie in the header's own folder, or are refused.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.errors import ConfigError, first_line
from vlp.core.untrusted import inside, open_regular, shown

from ...image.errors import ImageError
from ..options import LPS_TO_RAS, FileArray, VolumeOptions, axes_error, check_size, pick

_HEADER_LIMIT = 1 << 16
_DEFLATE = 1032
"""How often more bytes deflate can give than it is given."""
_ORIENTED = {"MetaImageIO": ("transformmatrix", "orientation", "rotation"), "NrrdImageIO": ("space directions",)}
_SPACED = {"MetaImageIO": ("elementspacing", "elementsize"), "NrrdImageIO": ("space directions", "spacings")}


def read_itk(path: Path, max_voxels: int, options: VolumeOptions) -> FileArray:
    """Return what a MetaImage or NRRD file holds; raises ImageError or OSError."""
    import SimpleITK as sitk

    kind = "MetaImageIO" if path.suffix.lower() in (".mha", ".mhd") else "NrrdImageIO"
    with open_regular(path) as file:
        fields, start = _fields(file.read(_HEADER_LIMIT), kind)
    holder = _holder(path, fields)
    with open_regular(holder) as file:
        available = file.seek(0, 2)
    reader: Any = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = _choose(reader, max_voxels, options, available)
        if _is_packed(fields):
            _check_packed(holder, start if holder == path else 0, size)
        image = reader.Execute()
    except ImageError:
        raise
    except RuntimeError as error:
        cut = re.search(r"truncat|could not|not read|end of|unexpected|inflat|fail", str(error), re.IGNORECASE)
        line = next((line for line in reversed(str(error).splitlines()) if line.strip()), first_line(error))
        raise ImageError(
            f"truncated or damaged: {line.strip()[:200]}" if cut else line[:200], "image_truncated"
        ) from None
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    spacing = tuple(float(side) for side in image.GetSpacing())
    if not any(name in fields for name in _SPACED[kind]):
        spacing = (0.0, 0.0, 0.0)
    affine = None
    if not options.orientation and any(name in fields for name in _ORIENTED[kind]) and fields.get("space", "-") != "":
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * spacing
        affine[:3, 3] = image.GetOrigin()
        affine = LPS_TO_RAS @ affine
    return FileArray(array, affine, spacing)


def _fields(data: bytes, kind: str) -> tuple[dict[str, str], int]:
    """Return the fields of a header's text, names in small letters, and where it ends; raises ImageError."""
    separator = b"=" if kind == "MetaImageIO" else b":"
    if kind == "NrrdImageIO" and data[:4] != b"NRRD":
        raise ImageError("is no NRRD file", "image_unreadable")
    found: dict[str, str] = {}
    at = 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        if kind == "NrrdImageIO" and not line.strip():
            break
        name, mark, value = line.partition(separator)
        if not mark or name.startswith(b"#"):
            continue
        key = name.decode("latin-1").strip().lower()
        if key in found:
            raise ImageError(f"its header says {shown(key)} twice", "bad_header")
        found[key] = value.decode("latin-1").strip()
        if key == "elementdatafile":
            break
    if kind == "MetaImageIO" and "elementdatafile" not in found:
        raise ImageError("is no MetaImage file: no ElementDataFile", "image_unreadable")
    return found, at


def _holder(path: Path, fields: dict[str, str]) -> Path:
    """Return the file that holds the voxels: the header's own or one beside it; raises ImageError for any other."""
    names = [fields[key] for key in ("elementdatafile", "data file", "datafile") if key in fields]
    if not names or names == ["LOCAL"]:
        return path
    name = names[0]
    if len(names) > 1 or re.search(r"[/\\%:\s]", name) or name.upper().startswith("LIST"):
        raise ImageError(
            f"its voxels are said to be in {shown(name)}: expected the name of one file beside it", "foreign_file"
        )
    try:
        return inside(path.parent, name)
    except ConfigError as error:
        raise ImageError(str(error), "foreign_file") from None


def _choose(reader: Any, max_voxels: int, options: VolumeOptions, available: int) -> int:
    """Tell the reader which volume of a 4-D file is read, and return the bytes of all voxels; raises ImageError."""
    import SimpleITK as sitk

    shape = tuple(int(side) for side in reader.GetSize())
    sides = " x ".join(map(str, shape))
    if reader.GetNumberOfComponents() != 1:
        raise ImageError(f"{reader.GetNumberOfComponents()} numbers a voxel: expected one", "bad_header")
    if len(shape) not in (3, 4):
        raise axes_error(shape)
    check_size(shape[:3], max_voxels)
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    least = int(np.prod(shape, dtype=np.int64)) * (int(bits[1]) if bits else 8) // 8
    if least > available * _DEFLATE:
        raise ImageError(f"says {sides} voxels in a file of {available} bytes", "image_truncated")
    if len(shape) == 4:
        index = pick(shape[3], options, f"a 4-D file of {sides}: axis 3 has {shape[3]} volumes") if shape[3] > 1 else 0
        reader.SetExtractSize([*shape[:3], 0])
        reader.SetExtractIndex([0, 0, 0, index])
    return least


def _is_packed(fields: dict[str, str]) -> bool:
    return fields.get("compresseddata", "").lower() == "true" or fields.get("encoding", "").lower() in ("gz", "gzip")


def _check_packed(path: Path, start: int, size: int) -> None:
    """Raise ImageError unless `size` bytes come out of a deflated file whole: the libraries go on with what they have got."""
    unpack, found = zlib.decompressobj(32 + zlib.MAX_WBITS), 0
    try:
        with open_regular(path) as file:
            file.seek(start)
            while not unpack.eof and found <= size and (part := unpack.unconsumed_tail or file.read(1 << 20)):
                found += len(unpack.decompress(part, 1 << 24))
    except zlib.error as error:
        raise ImageError(f"truncated or damaged: {error}", "image_truncated") from None
    if not unpack.eof or found != size:
        raise ImageError(f"truncated or damaged: {found} of {size} bytes of voxels come out of it", "image_truncated")
