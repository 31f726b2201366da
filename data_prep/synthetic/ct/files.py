"""Write scans of bodies as raw files, as scanners and data sets do: NIfTI, and DICOM series of several scales."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from .scan import Form, Scan

PADDING = -2000
"""What a DICOM series of the form `dicom_padded` holds outside of its round field of view."""


def write_nifti(path: Path, found: Scan) -> None:
    """Write a scan as a NIfTI file, int16."""
    import nibabel

    image = nibabel.Nifti1Image(found.array, found.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_dicom(folder: Path, found: Scan, form: Form, patient: str, study: str, series: str) -> None:
    """Write a scan as a series of DICOM slices; the first file, and the last instance, is the lowest slice."""
    assert form.intercept is not None
    folder.mkdir(parents=True)
    kind = np.int16 if form.padded else np.uint16
    stored = (found.array.astype(np.int32) - form.intercept).astype(kind)
    if form.padded:
        across, along = (np.linspace(-1, 1, count) for count in stored.shape[:2])
        stored[across[:, None] ** 2 + along**2 > 1.05] = PADDING
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    common = {
        "PatientID": patient,
        "StudyInstanceUID": uid(study),
        "AccessionNumber": study,
        "SeriesInstanceUID": uid(series),
        "FrameOfReferenceUID": uid(study),
        "PixelRepresentation": int(form.padded),
        "RescaleIntercept": form.intercept,
        "Rows": stored.shape[1],
        "Columns": stored.shape[0],
        "PixelSpacing": [float(spacing[1]), float(spacing[0])],
        "SliceThickness": float(spacing[2]),
    }
    if form.padded:
        common["PixelPaddingValue"] = PADDING
    count = stored.shape[2]
    for number in range(count):
        place = found.affine[:3] @ [0, 0, number, 1]
        own = {
            "SOPInstanceUID": f"{uid(series)}.{number}",
            "InstanceNumber": count - number,
            "ImagePositionPatient": [float(-place[0]), float(-place[1]), float(place[2])],
            "PixelData": np.ascontiguousarray(stored[:, :, number].T).tobytes(),
        }
        _slice({**common, **own}).save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def uid(name: str) -> str:
    """Return a DICOM UID that is a function of a name."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:12])}"


def _slice(elements: dict[str, Any]) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    fixed = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "PatientName": "Phantom",
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    for name, value in {**fixed, **elements}.items():
        setattr(file, name, value)
    return file
