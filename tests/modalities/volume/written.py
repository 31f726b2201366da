"""Volumes' files as their libraries write them, for tests, and read: values near air, so that they pass for a CT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from vlp.modalities.volume.options import VolumeOptions
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.volume import Volume

CT, MR, ENHANCED_CT = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "2.1"))
AXIAL = (1.0, 0, 0, 0, 1, 0)
LIMIT = 1 << 24


def read(path: Any, **options: Any) -> Volume:
    return read_volume(path, LIMIT, VolumeOptions(**options))


def ct(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return HU of a body in air, no symmetry in it, int16."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-120, 900, shape).astype(np.int16)
    values[: shape[0] // 3] = rng.integers(-1010, -990, values[: shape[0] // 3].shape)
    return values


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> Path:
    """Write a NIfTI file whose header says what is given, after nibabel has written its own."""
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patched(path: Path, **header: Any) -> Path:
    """Change a NIfTI file's header in place, past what nibabel would put right."""
    data = bytearray(path.read_bytes())
    found = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in header.items():
        found[name] = value
    data[:348] = found.binaryblock
    path.write_bytes(bytes(data))
    return path


def slice_of(
    pixels: np.ndarray, position: Any, orientation: Any = AXIAL, kind: str = CT, **elements: Any
) -> FileDataset:
    """Return a DICOM slice (or, of three axes, a file of frames) of stored values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5"
    file.Modality = "MR" if kind == MR else "CT"
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = np.ascontiguousarray(pixels).tobytes()
    file.PixelSpacing = [1.0, 1.0]
    file.RescaleSlope, file.RescaleIntercept = 1, 0
    if position is not None:
        file.ImagePositionPatient = [float(value) for value in position]
        file.ImageOrientationPatient = [float(value) for value in orientation]
    for name, value in elements.items():
        setattr(file, name, value)
    return file


def write(folder: Path, name: str, file: FileDataset) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file.save_as(folder / name, enforce_file_format=True)
    return folder / name


def series(
    folder: Path, stack: np.ndarray, positions: Any, orientation: Any = AXIAL, prefix: str = "s", **elements: Any
) -> Path:
    """Write a stack [n, rows, columns] as a file each."""
    for index, (plane, position) in enumerate(zip(stack, positions, strict=True)):
        write(folder, f"{prefix}{index:03d}", slice_of(plane, position, orientation, InstanceNumber=index, **elements))
    return folder


def steps(count: int, step: Any = (0, 0, 2.0), start: Any = (0, 0, 0)) -> np.ndarray:
    """Return positions on a line."""
    return np.asarray(start, float) + np.arange(count)[:, None] * np.asarray(step, float)


def enhanced(stack: np.ndarray, positions: Any, rescale: Any, **elements: Any) -> FileDataset:
    """Return a multi-frame file whose per-frame groups hold position and rescale, the shared ones the rest."""
    file = slice_of(stack, None, kind=ENHANCED_CT, NumberOfFrames=len(stack), **elements)
    del file.PixelSpacing, file.RescaleSlope, file.RescaleIntercept
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [1.0, 1.0]
    plane.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    file.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for position, (slope, intercept) in zip(positions, rescale, strict=True):
        frame, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(value) for value in position]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, intercept, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [values]
        frames.append(frame)
    file.PerFrameFunctionalGroupsSequence = frames
    return file
