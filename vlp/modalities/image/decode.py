"""An image file to uint8 pixels, grey or RGB: the one decoder of preparation, training, scoring, `from_pretrained`, export.

What a file means, whatever its format: it is turned upright by its Exif or XMP orientation; what is transparent is black;
the first picture of several counts; palettes and CMYK become RGB; where zero is white the values are inverted. Unsigned
integers of more than 8 bits are scaled by the depth that their largest value needs (8, 10, 12, 14 or 16 bits), floats and
signed integers by the range of their finite values. DICOM: see `dicom`. Torch is not imported.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vlp.core.untrusted import read_regular

from . import jpeg, png
from .errors import MAX_PIXELS as MAX_PIXELS
from .errors import ImageError as ImageError
from .errors import size_error

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2
"""Counted up when files come to mean other pixels: what is remembered of images is remembered for a version."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""What Pillow may open, by content. Its other formats are refused: EPS starts Ghostscript, some have no limits."""

Pixels = np.ndarray[Any, Any]
Shrink = Callable[[int, int], int]
"""By how much (1, 2, 4 or 8) a JPEG of a height and width may be shrunk while it is decoded."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """uint8 pixels, [H, W] where the image is grey and [H, W, 3] RGB where it is not, and what was done to get them."""

    pixels: Pixels
    steps: tuple[str, ...] = ()


def decode(data: bytes, channels: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image at full resolution -> uint8 [H, W] for one channel, [H, W, 3] (RGB) for three.

    Raises ImageError for damaged data, a format that is not read, and more than `max_pixels`, which is checked on the
    header, before anything is decoded.
    """
    return to_channels(decode_native(data, channels, max_pixels), channels)


def decode_native(
    data: bytes, channels: int, max_pixels: int = MAX_PIXELS, shrink: Shrink | None = None, window: str = "file"
) -> Pixels:
    """As `decode`, but a grey image is [H, W] also for three channels; `shrink` may have a JPEG decoded smaller."""
    pixels = decode_file(data, max_pixels, window, grey=channels == 1, shrink=shrink).pixels
    return to_channels(pixels, 1) if channels == 1 and pixels.ndim == 3 else pixels


def decode_file(
    data: bytes, max_pixels: int = MAX_PIXELS, window: str = "file", *, grey: bool = False, shrink: Shrink | None = None
) -> Decoded:
    """Decode an image in its own colours; `window` is DICOM's, see `DicomOptions`. Raises ImageError.

    A JPEG comes as grey where that is asked for, and smaller where `shrink` says so.
    """
    with _as_image_errors(len(data)):
        if data[:2] == jpeg.START:
            return _decode_jpeg(data, grey, max_pixels, shrink)
        if data[:8] == png.START:
            return _decode_png(data, max_pixels)
        if is_dicom(data):
            from .dicom import read_dicom
            from .grey_scale import DicomOptions

            return Decoded(*read_dicom(data, DicomOptions(window=window), max_pixels))
        return _decode_other(data, max_pixels)


def decode_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return where a mask is not black and not transparent, bool [H, W], whatever its depth; raises ImageError."""
    with _as_image_errors(len(data)), open_picture(data, max_pixels) as image:
        image.load()
        if image.mode == "P" and "transparency" not in image.info:
            return np.asarray(image) > 0  # the numbers of classes; their colours are for the eye
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            colours = np.asarray(image.convert("RGBA"))
            return np.asarray(colours[..., :3].any(axis=2) & (colours[..., 3] > 0))
        values = np.asarray(image)
        return np.asarray(values.any(axis=2) if values.ndim == 3 else np.nan_to_num(values) != 0)


def read_image(path: Path | str) -> bytes:
    """Return the bytes of an image file; raises ImageError for what is no regular file or cannot be read."""
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise ImageError(f"no such file: {os.path.basename(path)}", "image_missing") from None
    except OSError as error:
        raise ImageError(f"{os.path.basename(path)}: {error.strerror}") from None
    if not data:
        raise ImageError(f"{os.path.basename(path)}: zero bytes", "image_empty")
    return data


def image_size(data: bytes) -> tuple[int, int]:
    """Return the height and width of an image as it is decoded, from its header; raises ImageError."""
    with _as_image_errors(len(data)):
        if is_dicom(data):
            from .dicom import dicom_size

            return dicom_size(data)
        if data[:2] == jpeg.START and (found := jpeg.frame(data)):
            size, turn = (found.height, found.width), jpeg.orientation(data)
        elif data[:8] == png.START and not png.read_layout(data).has(*MAY_TURN):
            size, turn = png.read_size(data), 1
        else:
            with open_picture(data, 1 << 62) as image:
                size = image.height, image.width
                turn = 1 if image.format == "TIFF" else _orientation(image)  # Pillow says a TIFF's as it will be turned
        return size[::-1] if turn > 4 else size


def is_turned(data: bytes) -> bool:
    """Return whether an image is turned or mirrored as it is decoded, by its Exif or XMP orientation; raises ImageError."""
    with _as_image_errors(len(data)):
        if data[:2] == jpeg.START:
            return jpeg.orientation(data) != 1
        if is_dicom(data) or (data[:8] == png.START and not png.read_layout(data).has(*MAY_TURN)):
            return False
        with open_picture(data) as image:
            return _orientation(image) != 1


def besides_pixels(data: bytes) -> list[str]:
    """Return the names of what a stored image file holds that is no pixels, where a patient's name may stand."""
    import simplejpeg

    try:
        if data[:2] == jpeg.START:
            names = jpeg.besides_pixels(data)
            clean = jpeg.pixels_only(data)
            simplejpeg.decode_jpeg(clean, "GRAY", min_height=1, min_width=1)  # strictly: bytes may hide in a scan
            return names or ([] if clean == data else ["tables that are not used"])
        if data[:8] == png.START:
            return png.besides_pixels(data)
    except ValueError:
        return ["damaged image"]
    return ["DICOM header"] if is_dicom(data) else ["neither JPEG nor PNG"]


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise ImageError for an image without pixels, or of more than allowed."""
    if width < 1 or height < 1 or width * height > max_pixels:
        raise size_error(height, width, max_pixels)


def is_dicom(data: bytes) -> bool:
    """Return whether a file is DICOM, with its preamble or, as old archives write it, without."""
    return data[128:132] == b"DICM" or (data[:2] in (b"\x08\x00", b"\x02\x00") and data[3:4] == b"\0")


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """Return uint8 `[H, W]` or `[H, W, 3]` pixels as [H, W] for one channel and [H, W, 3] for three."""
    if pixels.dtype != np.uint8:
        raise ImageError(f"pixels must be uint8, found {pixels.dtype}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"pixels must be [H, W] or [H, W, 3], found {list(pixels.shape)}")
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)) if pixels.ndim == 3 else pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


@contextmanager
def _as_image_errors(size: int) -> Iterator[None]:
    """Turn what decoders raise, each its own kinds, into ImageError."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"out of memory while decoding the image ({size} bytes)", "out_of_memory") from None
    except Exception as error:
        text = str(error)
        cut = isinstance(error, EOFError) or any(
            word in text.lower() for word in ("truncated", "remature", "unexpected")
        )
        reason = "image_truncated" if cut else "image_unreadable"
        raise ImageError(f"cannot decode the image ({size} bytes): {text}", reason) from error


def _decode_jpeg(data: bytes, grey: bool, max_pixels: int, shrink: Shrink | None) -> Decoded:
    import simplejpeg

    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    check_size(height, width, max_pixels)
    if space in ("CMYK", "YCCK"):  # turbojpeg does not convert these
        return _decode_other(jpeg.pixels_only(data) if jpeg.orientation(data) == 1 else data, max_pixels)
    turn = jpeg.orientation(data)
    by = 1
    if shrink:
        by = shrink(width, height) if turn > 4 else shrink(height, width)
    colours = "GRAY" if grey or space == "Gray" else "RGB"
    # the decoder takes the smallest of its scales that reaches these sides: exactly 1 / by
    least = {} if by == 1 else {"min_height": -(-height // by), "min_width": -(-width // by)}
    pixels: Pixels = simplejpeg.decode_jpeg(data, colours, **least)
    pixels = pixels[..., 0] if colours == "GRAY" else pixels
    return Decoded(pixels) if turn == 1 else Decoded(turn_upright(pixels, turn), (TURNED,))


TURNED = "turned upright by its orientation"
MAY_TURN = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")
"""Chunks of a PNG that may hold its orientation."""
_MOVES = (b"acTL", b"fcTL", b"fdAT")


def _decode_png(data: bytes, max_pixels: int) -> Decoded:
    check_size(*png.read_size(data), max_pixels)
    layout = png.read_layout(data)
    keyed = layout.has(b"tRNS")
    if layout.depth < 8 or layout.kind == png.PALETTE or (layout.depth == 8 and keyed):
        return _decode_other(data, max_pixels)
    turn, steps = 1, list[str]()
    if layout.has(*MAY_TURN):
        with open_picture(data, max_pixels) as image:
            turn = _orientation(image)
    if layout.has(*_MOVES):
        steps.append("first of several frames")
    shown = png.still(data, layout) if steps or keyed else data
    pixels = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageError(f"damaged PNG ({len(data)} bytes)")
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    clear = _keyed(pixels, data, layout) if keyed else None
    if pixels.dtype != np.uint8:
        alpha = pixels[..., -1:] if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else None
        eight = to_eight_bits(pixels if alpha is None else pixels[..., :-1], steps)
        full = None if alpha is None else np.rint(alpha.astype(np.float32) / 257).astype(np.uint8)
        pixels = eight if full is None else np.concatenate([eight, full], axis=2)
    if clear is not None:
        pixels = np.where(clear if pixels.ndim == 2 else clear[..., None], np.uint8(0), pixels)
    if pixels.ndim == 3:
        if pixels.shape[2] in (2, 4):
            steps.append("transparency laid on black")
            pixels = _on_black(pixels[..., :-1], pixels[..., -1:])
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.shape[2] == 3 else pixels[..., 0]
        pixels = _grey_if_equal(pixels) if steps else pixels
    if turn != 1:
        steps.append(TURNED)
        pixels = turn_upright(pixels, turn)
    return Decoded(np.ascontiguousarray(pixels), tuple(steps))


def _keyed(pixels: Pixels, data: bytes, layout: png.Layout) -> Pixels:
    """Return where a 16-bit PNG has the colour that it calls transparent."""
    start, stop = next((start, stop) for name, start, stop in layout.chunks if name == b"tRNS")
    colour = np.frombuffer(data[start:stop], ">u2")
    if pixels.ndim == 2:
        return np.asarray(pixels == colour[0])
    return np.asarray((pixels[..., 2::-1] == colour[:3]).all(axis=2))


def _decode_other(data: bytes, max_pixels: int) -> Decoded:
    with open_picture(data, max_pixels) as image:
        return decode_opened(image)


@contextmanager
def open_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image]:
    """Open an encoded picture with Pillow, not loaded yet: an allowed format, at most so many pixels; raises ImageError."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote tags
            opened: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image of a format that is read ({', '.join(FORMATS)}, DICOM): it begins with {data[:4]!r}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), "image_too_large") from None
    with opened as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_size(image.height, image.width, max_pixels)
        if image.format == "TIFF":  # a tile is unpacked whole, however small the image is
            width, height = (int(image.tag_v2.get(tag, 1)) for tag in (322, 323))  # type: ignore[attr-defined]
            check_size(height, width, max(max_pixels, 1 << 20))
        yield image


def decode_opened(image: Image) -> Decoded:
    """Return the pixels of an image that Pillow opened or made; raises ImageError."""
    from PIL import ImageOps

    steps = ["first of several frames"] if getattr(image, "is_animated", False) else []
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
    turn = _orientation(image)
    with _as_image_errors(image.width * image.height):
        image.load()
        upright = ImageOps.exif_transpose(image) if turn != 1 else image
        if upright.mode in ("L", "RGB") and "transparency" not in image.info:
            pixels = np.asarray(upright)
        elif upright.mode.startswith("I") or upright.mode == "F":
            pixels = to_eight_bits(np.asarray(upright), steps)
            if white_is_zero:
                steps.append("inverted: zero is white")
                pixels = 255 - pixels
        else:
            pixels = _converted(upright, steps)
    if turn != 1:
        steps.append(TURNED)
    return Decoded(np.ascontiguousarray(pixels), tuple(steps))


def _converted(image: Image, steps: list[str]) -> Pixels:
    """Return an image of another mode than grey or RGB as one of these."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        steps.append("transparency laid on black")
        colours = np.asarray(image.convert("RGBA"))
        return _grey_if_equal(_on_black(colours[..., :3], colours[..., 3:]))
    steps.append(f"{image.mode} converted")
    return _grey_if_equal(np.asarray(image.convert("L" if image.mode == "1" else "RGB")))


def _on_black(colours: Pixels, alpha: Pixels) -> Pixels:
    return np.asarray((colours.astype(np.uint16) * alpha.astype(np.uint16) + 127) // 255, np.uint8)


def _grey_if_equal(pixels: Pixels) -> Pixels:
    """Return RGB pixels whose channels agree as grey."""
    if pixels.ndim == 2:
        return pixels
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    return np.ascontiguousarray(pixels[..., 0]) if grey else pixels


def to_eight_bits(values: Pixels, steps: list[str]) -> Pixels:
    """Return values of more than 8 bits as uint8; raises ImageError where none is a number."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        raise ImageError("no pixel is a finite number")
    low, high = float(finite.min()), float(finite.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 1 << 16:
        low, high = 0.0, float((1 << next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)) - 1)
    steps.append(f"more than 8 bits: {low:g}..{high:g} scaled to 0..255")
    wide = np.float32 if values.dtype.itemsize <= 2 else np.float64
    scaled = np.subtract(values, low, dtype=wide) * (255.0 / max(high - low, 1e-12))
    return np.asarray(np.nan_to_num(np.clip(np.rint(scaled), 0, 255), nan=0.0), np.uint8)


def _orientation(image: Image) -> int:
    """Return how an opened image is turned, 1 to 8."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises many kinds on damaged blocks, which say nothing then
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels [H, W] or [H, W, 3] as an Exif orientation (1 to 8) says that they are seen."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
