"""DICOM files to 8-bit pixels, each step recorded: modality LUT, VOI LUT or window, inversion of MONOCHROME1.

Formulas are those of DICOM PS3.3 (C.11.1 modality LUT, C.11.2 VOI LUT, C.7.6.3 image pixel). Overlays are never drawn,
and the bits above the stored ones, where old files keep them, are cleared. Nothing of the header leaves this module but
what `header` lists.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlp.config import config

from .sources.base import Reject

Array = np.ndarray[Any, Any]
COMPRESSED = "no decoder is installed for its compression, {name} (python-gdcm has most)"


@config
class DicomOptions:
    """How stored values become 8 bits.

    `window`: "file" the VOI LUT or the first window of the file, and the full range where it has none; "range" always
    the full range; or "center,width" in units of the modality (Hounsfield units for CT).
    """

    window: str = "file"


def open_dicom(data: bytes | Path) -> Any:
    """Return the parsed file, pixels not decoded yet; raises Reject for what is not DICOM or has no image in it."""
    from pydicom.errors import InvalidDicomError

    name = data.name if isinstance(data, Path) else "file"
    try:
        dataset = read_header(data, stop_before_pixels=False)
        empty = "SOPClassUID" not in dataset and "Rows" not in dataset
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise Reject("image_unreadable", f"{name}: DICOM: {complaint(error)}") from None
    if empty:
        raise Reject("image_unreadable", f"{name} is not DICOM")
    if "PixelData" not in dataset or "Rows" not in dataset:
        kind = getattr(getattr(dataset, "SOPClassUID", None), "name", "unknown")
        raise Reject("image_no_pixels", f"{name}: DICOM without pixels ({kind})")
    return dataset


def read_header(data: bytes | Path, stop_before_pixels: bool = True) -> Any:
    """Return the parsed file, in silence: what pydicom warns of quotes values, and those may be anybody's."""
    import pydicom

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = data if isinstance(data, Path) else io.BytesIO(data)
        return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=True)


def complaint(error: Exception) -> str:
    """Return what an error of pydicom says, without the values of the header that it quotes."""
    return f"{type(error).__name__}: " + re.sub(r"(['\"]).*?\1", "'...'", " ".join(str(error).split()))[:160]


def read_dicom(
    data: bytes | Path, options: DicomOptions | None = None, max_pixels: int = 100_000_000
) -> tuple[Array, tuple[str, ...]]:
    """Return the first frame as uint8 `[H, W]` or `[H, W, 3]`, and what was done to it; raises Reject."""
    frames = iter_frames(open_dicom(data), options or DicomOptions(), max_pixels)
    return next(frames)


def frame_count(dataset: Any) -> int:
    """Return how many frames a file holds."""
    return _whole(dataset, "NumberOfFrames", 1)


def _whole(dataset: Any, name: str, default: int | None = None) -> int:
    """Return an element that must be a whole number; raises Reject."""
    try:
        value = getattr(dataset, name, None)
        return int(default if value in (None, "") and default is not None else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise Reject("bad_header", f"DICOM {name}: {complaint(error)}") from None


def iter_frames(
    dataset: Any, options: DicomOptions, max_pixels: int = 100_000_000
) -> Iterator[tuple[Array, tuple[str, ...]]]:
    """Yield each frame as `read_dicom` does, decoding one at a time; raises Reject."""
    height, width = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if height * width > max_pixels:
        raise Reject("image_too_large", f"{width} x {height} pixels, the limit is {max_pixels} (--max-pixels)")
    for index in range(frame_count(dataset)):
        stored = _decode(dataset, index)
        yield to_eight_bits(stored, dataset, options, index)


def _decode(dataset: Any, index: int) -> Array:
    """Return the stored values of a frame, colours as RGB; raises Reject."""
    from pydicom.pixels import apply_color_lut, pixel_array

    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if syntax is None:
                _guess_syntax(dataset)
            palette = dataset.PhotometricInterpretation == "PALETTE COLOR"
            grey = _whole(dataset, "SamplesPerPixel", 1) == 1 and not palette
            values: Array = pixel_array(dataset, index=index, view_only=grey, correct_unused_bits=not grey)
            if palette:
                values = apply_color_lut(values, dataset)
    except (RuntimeError, NotImplementedError) as error:
        name = getattr(syntax, "name", "unknown")
        unknown = ("missing", "dependencies", "not support", "unsupported")
        if isinstance(error, NotImplementedError) or any(word in str(error).lower() for word in unknown):
            raise Reject("image_compressed", COMPRESSED.format(name=name)) from None
        raise Reject("image_truncated", f"DICOM pixels ({name}): {' '.join(str(error).split())[:200]}") from None
    except (ValueError, AttributeError, KeyError, IndexError, EOFError, OSError, TypeError) as error:
        truncated = re.search(
            r"less than|fewer|not enough|length of the pixel data|end of|unexpected", str(error).lower()
        )
        raise Reject("image_truncated" if truncated else "image_unreadable", f"DICOM pixels: {error}") from None
    return _clear_unused_bits(values, dataset) if grey else values


def _clear_unused_bits(values: Array, dataset: Any) -> Array:
    """Return values without what stands above the stored bits (PS3.5 8.1.1): the same array where nothing does."""
    size = values.dtype.itemsize * 8
    bits = _whole(dataset, "BitsStored", size)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.size == 0 or not 0 < bits < size:
        return values
    signed = values.dtype.kind == "i"
    top = 1 << (bits - signed)
    if values.max() < top and values.min() >= (-top if signed else 0):
        return values
    cleared: Array = (values << (size - bits)) >> (size - bits)
    return cleared


def _guess_syntax(dataset: Any) -> None:
    """Give a file without a header the byte order and explicitness that it was read with."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    uid = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    meta.TransferSyntaxUID = uid
    dataset.file_meta = meta


def to_eight_bits(stored: Array, dataset: Any, options: DicomOptions, index: int = 0) -> tuple[Array, tuple[str, ...]]:
    """Return stored values as uint8 and the steps taken, in their order."""
    steps: list[str] = []
    if frame_count(dataset) > 1:
        steps.append(f"frame {index} of {frame_count(dataset)}")
    if stored.ndim == 3:
        return _colour(stored, steps), tuple(steps)
    levels, place = _levels(stored, dataset)
    grey = _map_levels(levels, dataset, options, steps)
    return (grey if place is None else place(grey)), tuple(steps)


def _levels(stored: Array, dataset: Any) -> tuple[Array, Callable[[Array], Array] | None]:
    """Return values to map, in order, and how to put what they become in their places.

    Every step maps a value whatever its place, so it is done once per value and not once per pixel: several times faster.
    Images of so many values that it does not pay are returned as they are.
    """
    unsigned = {1: np.uint8, 2: np.uint16}.get(stored.dtype.itemsize)
    if unsigned is None or stored.dtype.kind not in "iu" or stored.size == 0:
        return stored, None
    low, high = int(stored.min()), int(stored.max())
    if high - low >= stored.size:
        return stored, None
    places: Array = stored.view(unsigned)  # of a value in a table of all values: its bits, whatever its sign
    size = 1 << (8 * stored.dtype.itemsize)
    levels: Array = np.arange(low, high + 1).astype(stored.dtype)
    if "PixelPaddingValue" in dataset or "ModalityLUTSequence" in dataset:
        # values between those that occur would widen the full range that is scaled when there is no window
        occurs = np.zeros(size, bool)
        occurs[places] = True
        levels = levels[occurs[levels.view(unsigned)]]

    def place(grey: Array) -> Array:
        table: Array = np.zeros(size, np.uint8)
        table[levels.view(unsigned)] = grey
        return np.asarray(cv2.LUT(places, table))

    return levels, place


def _map_levels(values: Array, dataset: Any, options: DicomOptions, steps: list[str]) -> Array:
    """Return what stored values become, uint8, whatever their shape."""
    padding = _padding(values, dataset, steps)
    modal = _modality_lut(values.astype(np.float64), dataset, steps)
    scaled = _window(modal, padding, dataset, options, steps)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        scaled = 255.0 - scaled
        steps.append("MONOCHROME1 inverted")
    grey: Array = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    if padding is not None:
        grey[padding] = 0
    return grey


def _colour(values: Array, steps: list[str]) -> Array:
    """Return RGB as uint8; a colour image whose channels agree becomes grey."""
    if values.dtype != np.uint8:
        top = float(np.iinfo(values.dtype).max)
        steps.append(f"{values.dtype.itemsize * 8}-bit colours scaled to 8")
        values = np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8)
    steps.append("colours as RGB")
    return np.ascontiguousarray(values[..., :3])


def _padding(values: Array, dataset: Any, steps: list[str]) -> Array | None:
    """Return where the pixels are padding outside of the detector, None where there is none (PS3.3 C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in dataset:
        return None
    first = int(dataset.PixelPaddingValue)
    last = int(getattr(dataset, "PixelPaddingRangeLimit", first))
    if values.dtype.kind == "u":  # the value may be written as if it were signed
        size = 1 << (values.dtype.itemsize * 8)
        first, last = first % size, last % size
    inside = (values >= min(first, last)) & (values <= max(first, last))
    if not inside.any() or inside.all():
        return None
    steps.append("padding black")
    return np.asarray(inside)


def _modality_lut(values: Array, dataset: Any, steps: list[str]) -> Array:
    """Apply the modality LUT: a table, or slope and intercept (PS3.3 C.11.1)."""
    if getattr(dataset, "ModalityLUTSequence", None):
        from pydicom.pixels import apply_modality_lut

        steps.append("modality LUT table")
        return np.asarray(apply_modality_lut(values.astype(np.int64), dataset), np.float64)
    slope = float(getattr(dataset, "RescaleSlope", 1) or 1)
    intercept = float(getattr(dataset, "RescaleIntercept", 0) or 0)
    if (slope, intercept) == (1.0, 0.0):
        return values
    steps.append(f"rescaled: slope {slope:g}, intercept {intercept:g}")
    return values * slope + intercept


def _window(values: Array, padding: Array | None, dataset: Any, options: DicomOptions, steps: list[str]) -> Array:
    """Return values mapped to 0..255 by a VOI LUT, a window or their full range (PS3.3 C.11.2)."""
    if options.window == "file" and getattr(dataset, "VOILUTSequence", None):
        from pydicom.pixels import apply_voi

        item = dataset.VOILUTSequence[0]
        top = (1 << int(item.LUTDescriptor[2])) - 1
        steps.append("VOI LUT table")
        return np.asarray(apply_voi(values.astype(np.int64), dataset, index=0), np.float64) * (255.0 / top)
    chosen = _chosen_window(dataset, options)
    if chosen is not None:
        center, width, function = chosen
        steps.append(f"window: center {center:g}, width {width:g}, {function.lower()}")
        return apply_window(values, center, width, function)
    seen = values if padding is None else values[~padding]
    low, high = float(seen.min()), float(seen.max())
    steps.append(f"full range: {low:g}..{high:g}")
    return (values - low) * 255.0 / max(high - low, 1e-12)


def _chosen_window(dataset: Any, options: DicomOptions) -> tuple[float, float, str] | None:
    if options.window == "range":
        return None
    if options.window != "file":
        center, _, width = options.window.partition(",")
        try:
            return float(center), float(width), "LINEAR"
        except ValueError:
            raise Reject("bad_option", f"window {options.window!r}: expected file, range or center,width") from None
    middle, span = _first(getattr(dataset, "WindowCenter", None)), _first(getattr(dataset, "WindowWidth", None))
    if middle is None or span is None or span < 1:
        return None
    return middle, span, str(getattr(dataset, "VOILUTFunction", "") or "LINEAR")


def _first(value: Any) -> float | None:
    """Return the first of several values; empty elements are None."""
    if value is None or value == "":
        return None
    if isinstance(value, (list, tuple)) or hasattr(value, "__iter__"):
        values = list(value)
        return float(values[0]) if values else None
    return float(value)


def apply_window(values: Array, center: float, width: float, function: str = "LINEAR") -> Array:
    """Return values windowed to 0..255 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 255.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0) * 255.0
    if width == 1:
        return np.where(values <= center - 0.5, 0.0, 255.0)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0) * 255.0


def header(dataset: Any) -> dict[str, str]:
    """Return the clinical fields that may leave a header, as text, empty ones left out.

    Modality, view, sex, age (90 and above as "90+"), body part, laterality. No names, dates, numbers, institutions, free
    text or private elements; ids are separate, see `ids`.
    """
    age = str(getattr(dataset, "PatientAge", "") or "").strip()
    found = {
        "modality": str(getattr(dataset, "Modality", "") or ""),
        "view": str(getattr(dataset, "ViewPosition", "") or ""),
        "sex": str(getattr(dataset, "PatientSex", "") or ""),
        "age": _age(age),
        "body_part": str(getattr(dataset, "BodyPartExamined", "") or ""),
        "laterality": str(getattr(dataset, "ImageLaterality", "") or getattr(dataset, "Laterality", "") or ""),
    }
    clean = {name: re.sub(r"[^A-Za-z0-9+ _-]", "", value).strip()[:32] for name, value in found.items()}
    return {name: value for name, value in clean.items() if value}


def _age(text: str) -> str:
    """Return an age string (`034Y`, `006M`) in whole years, "90+" from 90 on."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    if not match:
        return ""
    years = int(match[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    return "90+" if years >= 90 else str(years)


def ids(dataset: Any) -> dict[str, str]:
    """Return the ids that are replaced by keyed hashes before anything is written."""
    names = {
        "patient": "PatientID",
        "study": "StudyInstanceUID",
        "series": "SeriesInstanceUID",
        "image": "SOPInstanceUID",
        "accession": "AccessionNumber",
    }
    found = {name: str(getattr(dataset, element, "") or "").strip() for name, element in names.items()}
    return {name: value for name, value in found.items() if value}
