"""DICOM files to 8-bit pixels: which files are images, how many frames they hold, and one grey scale for those of a file.

Overlays are never drawn, and the bits above the stored ones, where old files keep them, are cleared. What the header
claims (frames, sizes) is held against what the file holds before anything is allocated. No message quotes a value of the
header, and pydicom's own warnings, which do, are silenced.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from vlp.core.untrusted import open_regular
from vlp.core.words import words

from . import jpeg
from .errors import MAX_PIXELS, ImageError, size_error
from .grey_scale import (
    Array,
    DicomOptions,
    Scale,
    choose_scale,
    map_grey,
    text,
    value_range,
    whole,
    widest,
)

COMPRESSED = "no decoder is installed for its compression, {name} (python-gdcm has most)"
NO_IMAGE = words(
    "ANN AR ASMT AU CTPROTOCOL DOC ECG EEG EMG EOG EPS FID HC HD KER KO LEN M3D OAM OPV PLAN POS PR REG RESP RTDOSE "
    "RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SMR SR SRF STAIN TEXTUREMAP VA XAPROTOCOL"
)
"""Modalities of what is derived or measured (PS3.3 C.7.3.1.1.1): reports, segmentations, doses, curves."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INFLATED = 1 << 31
_SIZE_OF_J2K = b"\xff\x4f\xff\x51"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom warns of from the console: it quotes values of patients."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def redact_error(error: Exception) -> str:
    """Return what an error of pydicom says, without the values of the header that it quotes."""
    return f"{type(error).__name__}: " + re.sub(r"(['\"]).*?\1", "'...'", " ".join(str(error).split()))[:160]


def read_header(data: bytes | Path, stop_before_pixels: bool = True) -> Any:
    """Return the parsed file; raises OSError, ImageError and what pydicom raises."""
    import pydicom

    with quiet(), open_regular(data) if isinstance(data, Path) else io.BytesIO(data) as file:
        _check_deflated(file)
        dataset = pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, force=True)
        dataset.filename = None
        return dataset


def open_dicom(data: bytes | Path, any_kind: bool = False) -> Any:
    """Return the parsed file, pixels not decoded yet; raises ImageError for what is not DICOM or no image.

    `any_kind`: also segmentations, dose maps and what else holds pixels but is no picture of a patient.
    """
    from pydicom.errors import InvalidDicomError

    name = data.name if isinstance(data, Path) else "file"
    try:
        with quiet():
            dataset = read_header(data, stop_before_pixels=False)
            empty = "SOPClassUID" not in dataset and "Rows" not in dataset
            kind = "" if empty else not_an_image(dataset)
            bare = "PixelData" not in dataset or "Rows" not in dataset
    except ImageError:
        raise
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ImageError(f"{name}: DICOM: {redact_error(error)}") from None
    if empty:
        raise ImageError(f"{name} is not DICOM")
    if kind and not any_kind:
        raise ImageError(f"{name}: DICOM, but no image: {kind}", "not_an_image", counted=False)
    if bare:
        raise ImageError(f"{name}: DICOM without pixels ({kind_of(dataset)})", "image_no_pixels")
    return dataset


def kind_of(dataset: Any) -> str:
    """Return the name of a file's storage class."""
    uid = getattr(dataset, "SOPClassUID", None)
    return str(getattr(uid, "name", "")) if uid and str(getattr(uid, "name", "")) != str(uid) else "unknown"


def not_an_image(dataset: Any) -> str:
    """Return what a file is that is no picture of a patient: its storage class or modality, "" for images."""
    kind = kind_of(dataset)
    if "Storage" in kind and "Image" not in kind and "Volume Storage" not in kind:
        return kind
    modality = text(dataset, "Modality").upper()
    return modality if modality in NO_IMAGE else ""


def dicom_size(data: bytes | Path) -> tuple[int, int]:
    """Return the rows and columns of a file; raises ImageError."""
    dataset = read_header(data)
    return whole(dataset, "Rows"), whole(dataset, "Columns")


def frame_count(dataset: Any) -> int:
    """Return how many frames a file says it holds, 1 where it says none or 0; raises ImageError for fewer."""
    count = whole(dataset, "NumberOfFrames", 1)
    if count < 0:
        raise ImageError("DICOM NumberOfFrames is negative", "bad_header")
    return count or 1


def check_frames(dataset: Any, size: int) -> int:
    """Return the number of frames that a file of `size` bytes says it holds; raises ImageError where it cannot hold them."""
    frames = frame_count(dataset)
    if frames > 1:
        least = 8.0  # bytes of a compressed frame: at least the mark before it
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
        if syntax is not None and not syntax.is_compressed:
            bits = whole(dataset, "BitsAllocated", 8) * whole(dataset, "SamplesPerPixel", 1)
            least = whole(dataset, "Rows", 1) * whole(dataset, "Columns", 1) * bits / 8
        elif syntax is not None and syntax == _DEFLATED.decode():
            least = 1 / 1032
        if frames * least > size:
            raise ImageError(f"DICOM NumberOfFrames says more frames than {size} bytes can hold", "bad_header")
    return frames


def read_dicom(
    data: bytes | Path, options: DicomOptions | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Array, tuple[str, ...]]:
    """Return the first frame as uint8 `[H, W]` or `[H, W, 3]`, and what was done to it; raises ImageError."""
    return Frames(open_dicom(data), options or DicomOptions(), max_pixels).read(0)


class Frames:
    """The frames of an open file, by number. Without a window all of them share the range of the file."""

    def __init__(self, dataset: Any, options: DicomOptions, max_pixels: int = MAX_PIXELS) -> None:
        with quiet():
            rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
            if min(rows, columns) < 1 or rows * columns > max_pixels:
                raise size_error(rows, columns, max_pixels)
            self._count = check_frames(dataset, len(dataset.PixelData))
            if whole(dataset, "NumberOfFrames", 1) == 0:
                dataset.NumberOfFrames = 1
        self.dataset, self._options = dataset, options
        self._range: Scale | None = None

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> tuple[Array, tuple[str, ...]]:
        """Return a frame and what was done to it; raises ImageError."""
        if index >= self._count:
            raise ImageError(f"frame {index} of a file of {self._count}")
        with quiet():
            stored = decode_frame(self.dataset, index)
            steps = (f"frame {index} of {self._count}",) if self._count > 1 else ()
            if stored.ndim == 3:
                pixels, done = _colour(stored)
            else:
                scale = choose_scale(self.dataset, index, self._options) or self._full_range(stored)
                pixels, done = map_grey(stored, self.dataset, index, scale)
            return pixels, (*steps, *done)

    def _full_range(self, stored: Array) -> Scale:
        if self._range is None:
            frames = [stored] if self._count == 1 else (decode_frame(self.dataset, at) for at in range(self._count))
            self._range = widest(value_range(frame, self.dataset, at) for at, frame in enumerate(frames))
        return self._range


def decode_frame(dataset: Any, index: int) -> Array:
    """Return the stored values of a frame, colours as RGB; raises ImageError."""
    from pydicom.pixels import apply_color_lut, pixel_array

    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    try:
        if syntax is None:
            _guess_syntax(dataset)
        elif syntax.is_encapsulated:
            _check_compressed(dataset, index)
        palette = dataset.PhotometricInterpretation == "PALETTE COLOR"
        grey = whole(dataset, "SamplesPerPixel", 1) == 1 and not palette
        values: Array = pixel_array(dataset, index=index, view_only=grey, correct_unused_bits=not grey)
        if palette:
            values = apply_color_lut(values, dataset)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("out of memory while decoding DICOM pixels", "out_of_memory") from None
    except (RuntimeError, NotImplementedError) as error:
        name = getattr(syntax, "name", "unknown")
        unknown = ("missing", "dependencies", "not support", "unsupported")
        if isinstance(error, NotImplementedError) or any(word in str(error).lower() for word in unknown):
            raise ImageError(COMPRESSED.format(name=name), "image_compressed") from None
        raise ImageError(f"DICOM pixels ({name}): {redact_error(error)}", "image_truncated") from None
    except (ValueError, AttributeError, KeyError, IndexError, EOFError, OSError, TypeError, StopIteration) as error:
        cut = re.search(r"less than|fewer|not enough|length of the pixel data|end of|unexpected", str(error).lower())
        raise ImageError(
            f"DICOM pixels: {redact_error(error)}", "image_truncated" if cut else "image_unreadable"
        ) from None
    return _clear_unused_bits(values, dataset) if grey else values


def _check_compressed(dataset: Any, index: int) -> None:
    """Hold what a compressed frame says of itself against the header, before it is unpacked; raises ImageError.

    A frame of another size would be allocated at its own; chroma of half size is YCbCr, whatever the header says.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

    data = get_frame(dataset.PixelData, index, number_of_frames=frame_count(dataset))
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    found = jpeg.frame(data) if data[:2] == jpeg.START else None
    size = (found.height, found.width) if found else _size_of_j2k(data)
    if size is not None and size[0] * size[1] > rows * columns:
        raise ImageError(
            f"DICOM Rows and Columns say {columns} x {rows}, the compressed frame is {size[1]} x {size[0]}",
            "bad_header",
        )
    baseline = dataset.file_meta.TransferSyntaxUID in (JPEGBaseline8Bit, JPEGExtended12Bit)
    if baseline and found and found.is_subsampled and dataset.PhotometricInterpretation == "RGB":
        dataset.PhotometricInterpretation = "YBR_FULL_422"


def _size_of_j2k(data: bytes) -> tuple[int, int] | None:
    """Return height (of all components together) and width of a JPEG 2000 code stream, None for other data."""
    at = data.find(_SIZE_OF_J2K, 0, 4096)
    if at < 0 or at + 42 > len(data):
        return None
    right, bottom, left, top = struct.unpack(">IIII", data[at + 8 : at + 24])
    components = int.from_bytes(data[at + 40 : at + 42], "big")
    return max(bottom - top, 0) * max(1, components // 4), max(right - left, 0)


def _check_deflated(file: IO[bytes]) -> None:
    """Raise ImageError for a deflated file that would fill the memory: pydicom inflates it whole, whatever is asked for."""
    head = file.read(4096)
    if head[128:132] == b"DICM" and _DEFLATED in head:
        file.seek(_end_of_meta(head))
        unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        try:
            while part := (unpack.unconsumed_tail or file.read(1 << 20)):
                size += len(unpack.decompress(part, 1 << 24))
                if size > _INFLATED:
                    raise ImageError(f"DICOM that inflates to more than {_INFLATED} bytes", "image_too_large")
        except zlib.error as error:
            raise ImageError(f"DICOM: deflated data: {redact_error(error)}", "image_truncated") from None
    file.seek(0)


def _end_of_meta(head: bytes) -> int:
    """Return where the elements of group 2 end, which are never deflated (PS3.10 7.1: explicit, little endian)."""
    at = 132
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        long = head[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        size = head[at + 8 : at + 12] if long else head[at + 6 : at + 8]
        at += (12 if long else 8) + int.from_bytes(size, "little")
    return at


def _clear_unused_bits(values: Array, dataset: Any) -> Array:
    """Return values without what stands above the stored bits (PS3.5 8.1.1): the same array where nothing does."""
    size = values.dtype.itemsize * 8
    bits = whole(dataset, "BitsStored", size)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.size == 0 or not 0 < bits < size:
        return values
    signed = values.dtype.kind == "i"
    top = 1 << (bits - signed)
    if values.max() < top and values.min() >= (-top if signed else 0):
        return values
    return np.asarray((values << (size - bits)) >> (size - bits))


def _guess_syntax(dataset: Any) -> None:
    """Give a file without a header the byte order and explicitness that it was read with."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    uid = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid


def _colour(values: Array) -> tuple[Array, tuple[str, ...]]:
    """Return RGB as uint8, and the steps."""
    steps: list[str] = []
    if values.dtype != np.uint8:
        top = float(np.iinfo(values.dtype).max)
        steps.append(f"{values.dtype.itemsize * 8}-bit colours scaled to 8")
        values = np.rint(values.astype(np.float64) * (255.0 / top)).astype(np.uint8)
    return np.ascontiguousarray(values[..., :3]), (*steps, "colours as RGB")
