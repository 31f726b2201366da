"""NIfTI files to their array and affine. The header is looked at before anything is unpacked.

The header is nibabel's; which of its two affines counts is decided here: nibabel invents one where there is none, and
libraries differ about which to take where both are there and differ.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from vlp.core.errors import first_line
from vlp.core.untrusted import open_gzip, open_regular

from ...image.errors import ImageError
from ..options import FileArray, VolumeOptions, axes_error, check_size, corners_of, pick

UNITS = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_HEADER_LIMIT = 1 << 20
_MAX_OFFSET = 1 << 26
_SLACK = 1 << 16
"""Bytes that a buffered reader may take beyond what is asked for."""


def read_nifti(path: Path, max_voxels: int, options: VolumeOptions) -> FileArray:
    """Return what a .nii or .nii.gz holds, packed or not whatever its name; raises ImageError or OSError."""
    try:
        with _opened(path, _HEADER_LIMIT) as file:
            header = _header(file.read(540))
        shape, index = _shape(header, options)
        check_size(shape, max_voxels)
        kind = header.get_data_dtype()
        if kind.kind not in "iuf" or kind.itemsize > 8:
            raise ImageError(f"values of type {kind}: expected one number a voxel", "bad_header")
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        start = int(header.get_data_offset())
        if not 0 <= start <= _MAX_OFFSET:
            raise ImageError(f"its voxels begin at byte {start} (vox_offset)", "bad_header")
        start += index * size
        with _opened(path, start + size + _SLACK) as file:
            _skip(file, start)
            data = file.read(size)
            if len(data) < size:
                raise ImageError(f"ends after {len(data)} of {size} bytes of voxels", "image_truncated")
            if not index:
                _to_the_end(file)
    except (EOFError, zlib.error) as error:
        raise ImageError(f"truncated or damaged gzip: {first_line(error)}", "image_truncated") from None
    array = np.frombuffer(data, kind).reshape(shape, order="F")
    affine, spacing = _place(header, shape, options)
    return FileArray(array, affine, spacing, _scale(header))


def _opened(path: Path, limit: int) -> IO[bytes]:
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
    return open_gzip(path, limit) if packed else open_regular(path)


def _header(block: bytes) -> Any:
    from nibabel import nifti1, nifti2

    for size, name in _SIZES.items():
        if len(block) >= size and size in (int.from_bytes(block[:4], order) for order in ("little", "big")):
            header = getattr(nifti1 if size == 348 else nifti2, name)(block[:size], check=False)
            if bytes(header["magic"])[:3] in (b"n+1", b"n+2"):
                return header
    raise ImageError("is no NIfTI file: expected a .nii or .nii.gz with header and voxels in one")


def _shape(header: Any, options: VolumeOptions) -> tuple[tuple[int, int, int], int]:
    """Return the shape of the volume that is read, and which of the file's it is; raises ImageError."""
    shape = tuple(int(side) for side in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    sides = " x ".join(map(str, shape))
    if len(shape) == 4:
        return shape[:3], pick(shape[3], options, f"a 4-D file of {sides}: axis 3 has {shape[3]} volumes")
    if len(shape) != 3:
        raise axes_error(shape)
    return shape, 0


def _scale(header: Any) -> tuple[float, float]:
    slope, intercept = header.get_slope_inter()  # none where the header has NaN or a slope of 0
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _place(
    header: Any, shape: tuple[int, ...], options: VolumeOptions
) -> tuple[np.ndarray | None, tuple[float, ...] | None]:
    """Return the affine, None where the header has none, and the spacing that the header states; raises ImageError."""
    from nibabel.spatialimages import HeaderDataError

    code = int(header["xyzt_units"]) & 7
    unit = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}.get(code)
    if unit is None:
        raise ImageError(
            f"xyzt_units is {int(header['xyzt_units'])}: expected metres, millimetres or micrometres", "bad_header"
        )
    factor = UNITS[unit]
    spacing = tuple(float(side) * factor for side in header["pixdim"][1:4])
    if options.orientation:
        return None, spacing
    sform = header.get_sform() if header["sform_code"] > 0 else None
    qform = None
    if header["qform_code"] > 0:
        try:
            qform = header.get_qform()
        except (HeaderDataError, ValueError) as error:
            if sform is None:
                text = " x ".join(f"{side:g}" for side in spacing)
                raise ImageError(f"qform of spacing {text} mm (pixdim): {first_line(error)}", "bad_spacing") from None
    if sform is not None and qform is not None:
        _check_equal(sform, qform, shape, header)
    found = sform if sform is not None else qform
    return (None if found is None else np.diag([factor, factor, factor, 1.0]) @ found), spacing


def _check_equal(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...], header: Any) -> None:
    """Raise ImageError where the two affines put a corner in two places.

    A quaternion states its first part by the others. Near half a turn, which every LPS file has, that is lost in 32-bit
    floats: a file of nibabel's own, a little oblique, is .1 mm off at the corners (measured, up to .6 mm).
    """
    corners = corners_of(shape)
    apart = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    parts = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
    reach = np.linalg.norm((sform @ (corners - corners[:, :1]))[:3], axis=0).max()
    slack = 1e-3 + reach * (1.5e-3 if 1 - parts @ parts < 1e-4 else 1e-5)
    if not apart <= slack:
        raise ImageError(
            f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])}) put a corner {apart:.4g} "
            "mm apart: set the wrong one's code to 0, or name the orientation by the option `orientation`",
            "two_orientations",
        )


def _skip(file: IO[bytes], count: int) -> None:
    while count > 0:
        part = file.read(min(count, 1 << 20))
        if not part:
            raise ImageError("ends before its voxels begin", "image_truncated")
        count -= len(part)


def _to_the_end(file: IO[bytes]) -> None:
    """Read on to where gzip's checksum stands, which tells of damage; what lies behind the voxels is not asked for."""
    try:
        file.read(_SLACK // 2)
    except OSError as error:
        if "more than" not in str(error):
            raise
