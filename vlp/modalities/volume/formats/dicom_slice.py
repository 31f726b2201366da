"""What the header of a DICOM file says of its frames: where each lies as a slice, and which are none."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.untrusted import open_regular

from ...image.dicom import check_frames, kind_of, not_an_image, quiet, read_header, redact_error
from ...image.errors import ImageError
from ...image.grey_scale import describe, numbers, text, whole

APART = {
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": None,
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TriggerTime": None,
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "ContentTime": None,
}
"""What tells the phases and echoes of one series apart: of a file, and the macro and element that say it of a frame."""
DIRECTORY = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SCOUTS = ("LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM")
UNPLACED = "slice without a position"


@dataclass(frozen=True, slots=True)
class Slice:
    """A frame of a file and where it lies, in LPS: the centre of its first pixel, row and column directions, millimetres."""

    path: Path
    frame: int
    series: str
    instance: str
    modality: str
    frame_of_reference: str
    size: tuple[int, int]
    spacing: tuple[float, float]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    apart: tuple[str, ...]


def slices_of(path: Path, left_out: Counter[str]) -> list[Slice]:
    """Return the slices of a file, and count what is none; raises ImageError for a damaged file."""
    try:
        with open_regular(path) as file:
            is_marked = file.read(132)[128:] == b"DICM"
            length = file.seek(0, 2)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    try:
        dataset = read_header(path)
        with quiet():
            kind = _left_out(dataset, is_marked)
            frames = 1 if kind else check_frames(dataset, length)
            found = [kind] if kind else [_slice(path, dataset, frame, frames) for frame in range(frames)]
    except ImageError:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged headers
        if is_marked:
            raise ImageError(f"DICOM: {redact_error(error)}", "bad_header") from None
        found = ["file that is not DICOM"]
    left_out.update(part for part in found if isinstance(part, str))
    return [part for part in found if isinstance(part, Slice)]


def _left_out(dataset: Any, is_marked: bool) -> str:
    """Return what a file is that holds no slice of a volume, "" for one that does; raises ImageError for a damaged one."""
    bare = "Rows" not in dataset
    if bare and "SOPClassUID" not in dataset:
        if is_marked and text(dataset.file_meta, "MediaStorageSOPClassUID") != DIRECTORY:
            raise ImageError("DICOM that ends in its header", "bad_header")
        return "file that is not DICOM"
    if not_an_image(dataset) or (bare and "Image Storage" not in kind_of(dataset)):
        return "file that is no image"
    if bare:
        raise ImageError("DICOM that ends in its header", "bad_header")
    if text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    return _scout(dataset)


def _scout(place: Any) -> str:
    words = [text(place, name) for name in ("ImageType", "FrameType")]
    found = re.findall(r"\w+", " ".join(words).upper())
    scout = next((word for word in found if any(name in word for name in SCOUTS)), "")
    return f"localiser (ImageType {scout})" if scout else ""


def _slice(path: Path, dataset: Any, frame: int, frames: int) -> Slice | str:
    """Return a frame as a slice, or what else it is; raises ImageError."""

    def described(macro: str) -> Any:
        return describe(dataset, frame, macro)

    if frames > 1 and described("PlanePositionSequence") is dataset:
        return UNPLACED  # frames of one position are no slices
    if scout := _scout(described("CTImageFrameTypeSequence")) or _scout(described("MRImageFrameTypeSequence")):
        return scout
    position = numbers(described("PlanePositionSequence"), "ImagePositionPatient")
    orientation = numbers(described("PlaneOrientationSequence"), "ImageOrientationPatient")
    spacing = numbers(described("PixelMeasuresSequence"), "PixelSpacing")
    if len(position) != 3 or len(orientation) != 6:
        return UNPLACED
    directions = np.array(orientation).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > 1e-2:
        raise ImageError("DICOM ImageOrientationPatient is no two directions at a right angle", "bad_affine")
    if len(spacing) != 2 or min(spacing) <= 0:
        raise ImageError(
            f"DICOM PixelSpacing is {spacing or 'missing'}: expected two positive millimetres", "bad_spacing"
        )
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return Slice(
        path,
        frame,
        text(dataset, "SeriesInstanceUID"),
        text(dataset, "SOPInstanceUID"),
        text(dataset, "Modality").upper(),
        text(dataset, "FrameOfReferenceUID"),
        (whole(dataset, "Rows"), whole(dataset, "Columns")),
        (spacing[0], spacing[1]),
        tuple(position),
        tuple(float(part) for part in unit.ravel()),
        tuple(_apart(dataset, described, name) for name in APART),
    )


def _apart(dataset: Any, described: Any, name: str) -> str:
    """Return a value that tells phases apart, of a frame or else of the file, "" where there is none."""
    of_frame = APART[name]
    return (text(described(of_frame[0]), of_frame[1]) if of_frame else "") or text(dataset, name)
