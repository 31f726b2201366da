"""A volume's file, or a folder of DICOM slices, to a `Volume`: the one reader of preparation, scoring and `from_pretrained`.

Each kind of file has a reader that hands on its array as it lies in the file. What is the same for all is done here: the
turn to [z, y, x] in RAS, the checks of the place, values as Hounsfield units or, for an MR, with their range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlp.core.errors import first_line
from vlp.core.untrusted import open_regular

from ..image.decode import is_dicom
from ..image.errors import ImageError
from . import hounsfield
from .formats import dicom_series, itk, nifti, rad_chestct
from .formats.slices import ASIDE, check_upright, straighten, upright_shape
from .options import LEAST, FileArray, VolumeOptions, affine_of, check_size, corners_of
from .spec import AIR
from .volume import Volume, closest_axes, to_ras

NIFTI = (".nii", ".nii.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
NPZ = ".npz"
DICOM = (".dcm", ".dicom", ".ima")
SPACING = (0.05, 20.0)
"""In millimetres: what voxels of patients measure."""


def is_volume_file(path: Path) -> bool:
    """Return whether a file is a volume by its name; DICOM files may be images as well."""
    return path.name.lower().endswith((*NIFTI, *ITK, NPZ))


Files = Path | Sequence[Path] | dicom_series.Series
"""A file, a folder of DICOM slices, a list of these, or a series found among them (`dicom_series.find_series`)."""


def read_volume(files: Files, max_voxels: int, options: VolumeOptions | None = None) -> Volume:
    """Return the volume in files; raises ImageError."""
    options = options or VolumeOptions()
    with _named(files):
        return _finished(_file_array(files, max_voxels, options), max_voxels, options)


def read_mask(files: Files, volume: Volume, options: VolumeOptions | None = None) -> np.ndarray:
    """Return the labels of a mask's file [D, H, W] on the voxels of its volume; raises ImageError for another geometry."""
    options = options or VolumeOptions()
    with _named(files):
        found = _file_array(files, max(int(np.prod(volume.shape)), 1 << 20), options)
        affine = _affine(found, options)
        _check_span(affine)
        mask, affine, _ = to_ras(found.array, affine)
        corners = corners_of(mask.shape[::-1])
        apart = float(np.linalg.norm(((affine - volume.affine) @ corners)[:3], axis=0).max())
        if mask.shape != volume.shape or apart > 0.1 * min(volume.spacing):
            sizes = [" x ".join(map(str, shape)) for shape in (mask.shape, volume.shape)]
            raise ImageError(
                f"a mask of {sizes[0]} voxels on a volume of {sizes[1]} (D x H x W), corners up to {apart:.4g} mm apart: "
                "expected the voxels of its volume; resample it there",
                "bad_mask",
            )
        if found.scale != (1.0, 0.0) or (mask != np.rint(mask)).any():
            raise ImageError(
                "a mask with values that are no labels: expected whole numbers without a slope", "bad_mask"
            )
        return np.ascontiguousarray(mask)


@contextmanager
def _named(files: Files) -> Iterator[None]:
    """Put the name of what is read before what is wrong with it."""
    if isinstance(files, Path):
        name = files.name
    else:
        name = str(files) if isinstance(files, dicom_series.Series) else f"{len(files)} files"
    try:
        yield
    except ImageError as error:
        text = str(error) if str(error).startswith(f"{name}: ") else f"{name}: {error}"
        raise ImageError(text, error.reason, counted=error.counted) from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or first_line(error)}") from None
    except MemoryError:
        raise ImageError(f"{name}: out of memory", "out_of_memory") from None


def _file_array(path: Files, max_voxels: int, options: VolumeOptions) -> FileArray:
    if isinstance(path, dicom_series.Series):
        return dicom_series.read_series(path, max_voxels, options)
    if not isinstance(path, Path):
        return dicom_series.read_files(path, max_voxels, options)
    name = path.name.lower()
    if path.is_dir():
        return dicom_series.read_files(dicom_series.files_below(path), max_voxels, options)
    if name.endswith(NIFTI):
        return nifti.read_nifti(path, max_voxels, options)
    if name.endswith(ITK):
        return itk.read_itk(path, max_voxels, options)
    if name.endswith(NPZ):
        return rad_chestct.read_npz(path, max_voxels, options)
    with open_regular(path) as file:
        head = file.read(132)
    if is_dicom(head) or name.endswith(DICOM):
        return dicom_series.read_files([path], max_voxels, options)
    kinds = " ".join((*NIFTI, *ITK, NPZ))
    raise ImageError(
        f"is no volume that is read: expected {kinds}, a DICOM file, or a folder of DICOM slices", "no_volume"
    )


def _finished(found: FileArray, max_voxels: int, options: VolumeOptions) -> Volume:
    shape, steps = found.array.shape, found.steps
    if min(shape) < LEAST:
        raise ImageError(
            f"an array of {' x '.join(map(str, shape))}: a volume needs at least {LEAST} slices", "no_volume"
        )
    affine = _affine(found, options)
    _check_spacing(affine, shape)
    _check_span(affine)
    modality = found.modality or options.modality or "CT"
    scale = _scale(found, options)
    if scale != (1.0, 0.0):
        steps = (*steps, f"slope {scale[0]:g}, intercept {scale[1]:g}")
    array, straight = _straight(found.array, affine, scale, modality, max_voxels, options)
    if array is not found.array:
        scale, steps = (1.0, 0.0), (*steps, "leaning stack brought onto a straight grid")
    turned, affine, axes = to_ras(array, straight)
    if modality != "CT":
        voxels, span = hounsfield.unscaled(turned, scale)
        return Volume(voxels, affine, modality, span, axes, steps)
    voxels = hounsfield.to_int16(turned, scale)
    return Volume(voxels, affine, modality, None, axes, (*steps, *hounsfield.check_air(voxels)))


def _scale(found: FileArray, options: VolumeOptions) -> tuple[float, float]:
    if options.rescale is None:
        return found.scale
    if found.is_scaled or found.scale != (1.0, 0.0):
        raise ImageError("the file states slope and intercept itself: leave out the option `rescale`", "rescaled_twice")
    return options.rescale


def _affine(found: FileArray, options: VolumeOptions) -> np.ndarray:
    """Return the affine of a file's array, as its header or the options have it; raises ImageError."""
    if found.affine is None and not options.orientation:
        raise ImageError(
            "no orientation in the header: name it by the options `orientation` (where its axes i, j, k point, such as LPS) "
            "and `spacing`",
            "no_orientation",
        )
    if not options.orientation:
        affine = np.array(found.affine, np.float64)
        if options.spacing is not None:
            _check_span(affine)
            for ours, theirs in enumerate(closest_axes(affine).order):
                affine[:3, theirs] *= options.spacing[ours] / np.linalg.norm(affine[:3, theirs])
        return affine
    spacing = list(found.spacing or (0.0, 0.0, 0.0))
    if options.spacing is not None:
        for axis, letter in enumerate(options.orientation):
            spacing[axis] = options.spacing[next(at for at, pair in enumerate(("SI", "AP", "RL")) if letter in pair)]
    return affine_of(options.orientation, tuple(spacing), found.array.shape)


def _check_span(affine: np.ndarray) -> None:
    if not np.isfinite(affine).all():
        axes = [
            f"axis {name}" for name, column in zip("ijk", affine.T[:3], strict=True) if not np.isfinite(column).all()
        ]
        raise ImageError(f"its affine holds what is no number: {', '.join(axes) or 'the origin'}", "bad_affine")
    try:
        closest_axes(affine)
    except ValueError as error:
        raise ImageError(str(error), "bad_affine") from None


def _check_spacing(affine: np.ndarray, shape: tuple[int, ...]) -> None:
    for axis, spacing in enumerate(np.linalg.norm(affine[:3, :3], axis=0)):
        if np.isfinite(spacing) and not SPACING[0] <= spacing <= SPACING[1]:
            raise ImageError(
                f"spacing of axis {'ijk'[axis]} (of {shape[axis]} voxels) is {spacing:.4g} mm: expected {SPACING[0]} "
                f"to {SPACING[1]:g}; is the unit right (xyzt_units of NIfTI)? The option `spacing` says another",
                "bad_spacing",
            )


def _straight(
    array: np.ndarray,
    affine: np.ndarray,
    scale: tuple[float, float],
    modality: str,
    max_voxels: int,
    options: VolumeOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an array and its affine, with slices along k straight on each other: as given, or scaled and resampled."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rows, columns, step = (affine[:3, :3] / spacing).T
    if abs(rows @ columns) * spacing[:2].min() > ASIDE:
        raise ImageError("its planes are sheared: rows and columns stand at no right angle", "bad_affine")
    normal = np.cross(rows, columns)
    normal = normal / np.linalg.norm(normal) * (1 if normal @ step > 0 else -1)
    count = np.arange(array.shape[2])
    offsets = count[:, None] * (spacing[2] * np.array([step @ rows, step @ columns]))
    gap = float(spacing[2] * (step @ normal))
    if check_upright(offsets, count * gap, options):
        return array, affine
    pixel = (float(spacing[1]), float(spacing[0]))  # of the rows and columns of a plane [j, i]
    stack = (array.astype(np.float32) * np.float32(scale[0]) + np.float32(scale[1])).transpose(2, 1, 0)
    check_size(upright_shape(stack.shape, offsets, pixel), max_voxels)
    found, start = straighten(stack, offsets, pixel, AIR if modality == "CT" else 0.0)
    upright = affine.copy()
    upright[:3, 2] = normal * gap
    upright[:3, 3] += rows * start[0] + columns * start[1]
    return found.transpose(2, 1, 0), upright
