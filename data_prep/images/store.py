"""Images on their way into a shard: checked, decoded once in full, and stored with nothing in them but pixels.

A JPEG or PNG that needs no change keeps its bytes, less the metadata (EXIF, comments, text chunks may name a patient).
Everything else is decoded, brought to 8 bits of grey or RGB, and encoded again; `Stored.steps` says what was done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from vlp.core.config import config
from vlp.modalities.image import jpeg, png
from vlp.modalities.image.decode import MAX_PIXELS, ImageError, check_size, decode_file, decode_mask, read_image
from vlp.modalities.image.decode import image_size as size_of
from vlp.modalities.volume.store import MAX_VOXELS

cv2.setNumThreads(1)  # the workers are the parallelism


@config
class ImageOptions:
    """How images are stored. `format: auto` keeps JPEG and PNG what they are and stores other pixels (DICOM, TIFF) as JPEG."""

    max_side: int = 0
    """Shrink images to this longer side, 0: as they are."""
    format: Literal["auto", "jpg", "png"] = "auto"
    """Format of the stored images."""
    quality: int = 95
    """Quality of stored JPEG."""
    max_pixels: int = MAX_PIXELS
    """Larger images are rejected."""
    max_voxels: int = MAX_VOXELS
    """Larger volumes are rejected."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An image as it goes into the shard. `shape`: (y, x); `scale`: stored size over source size along them, for boxes."""

    data: bytes
    shape: tuple[int, ...]
    scale: tuple[float, ...] = (1.0, 1.0)
    steps: tuple[str, ...] = ()


def store_image(image: Path | bytes | np.ndarray[Any, Any], options: ImageOptions) -> Stored:
    """Check an image and return its bytes for the shard; raises ImageError with the reason."""
    if isinstance(image, np.ndarray):
        return _encode(as_uint8(image), "jpg", options, ())
    data = read_image(image) if isinstance(image, Path) else image
    if not data:
        raise ImageError("zero bytes", "image_empty")
    if data[:2] == jpeg.START:
        return _store_jpeg(data, options)
    decoded = decode_file(data, options.max_pixels)
    is_png = data[:8] == png.START
    clean = png.pixels_only(data, png.read_layout(data)) if is_png and not decoded.steps else None
    return _encode(decoded.pixels, "png" if is_png else "jpg", options, decoded.steps, keep=clean)


def as_uint8(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return pixels that can be stored; raises ImageError for others."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"expected uint8 [H, W] or [H, W, 3], found {pixels.dtype} {list(pixels.shape)}")
    return pixels


def _store_jpeg(data: bytes, options: ImageOptions) -> Stored:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageError(f"JPEG header: {error}") from None
    check_size(height, width, options.max_pixels)
    if colours not in ("Gray", "YCbCr", "RGB") or jpeg.orientation(data) != 1:
        decoded = decode_file(data, options.max_pixels)
        return _encode(decoded.pixels, "jpg", options, decoded.steps)
    data = jpeg.pixels_only(data)
    shrink = 0 < options.max_side < max(height, width)
    if not shrink and options.format in ("auto", "jpg"):
        # The bytes are kept. Reading every coefficient finds what is damaged, and bytes that hide in a scan's data; an
        # eighth of the pixels is made on the way.
        _decode_jpeg(data, "GRAY", 1, 1)
        return Stored(data, (height, width))
    # Decoding straight to 1/2, 1/4 or 1/8 in the DCT, never below what is kept, is faster and as good as averaging: on
    # radiographs the two agree to 56 dB, where storing as JPEG of quality 95 costs 45 dB.
    scale = options.max_side / max(height, width) if shrink else 0.0
    pixels = _decode_jpeg(data, "GRAY" if colours == "Gray" else "RGB", round(height * scale), round(width * scale))
    return _encode(pixels, "jpg", options, (), source_size=(height, width))


def _decode_jpeg(data: bytes, colours: str, min_height: int, min_width: int) -> np.ndarray[Any, Any]:
    """Decode at the smallest of the scales 1/1 .. 1/8 that is not below the sizes given; raises ImageError, strictly."""
    try:
        pixels: np.ndarray[Any, Any] = simplejpeg.decode_jpeg(
            data, colorspace=colours, min_height=min_height, min_width=min_width
        )
    except ValueError as error:
        raise ImageError(str(error), "image_truncated" if "remature" in str(error) else "image_unreadable") from None
    return pixels[:, :, 0] if colours == "GRAY" else pixels


def _encode(
    pixels: np.ndarray[Any, Any],
    natural: str,
    options: ImageOptions,
    steps: tuple[str, ...],
    keep: bytes | None = None,
    source_size: tuple[int, int] | None = None,
) -> Stored:
    """Resize and encode; `keep` is returned instead when neither size nor format changes."""
    height, width = source_size or pixels.shape[:2]
    check_size(height, width, options.max_pixels)
    form = natural if options.format == "auto" else options.format
    if form == "jpg" and max(pixels.shape[:2]) > 65500:  # more than JPEG can hold
        form = "png"
    if 0 < options.max_side < max(height, width):
        ratio = options.max_side / max(height, width)
        size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        scale = (size[0] / height, size[1] / width)
        steps = (*steps, f"resized from {width} x {height}")
    else:
        size, scale = (height, width), (1.0, 1.0)
        if keep is not None and form == natural:
            return Stored(keep, size, scale, steps)
    return Stored(encode(pixels, form, options.quality), size, scale, steps)


def encode(pixels: np.ndarray[Any, Any], form: str, quality: int = 95) -> bytes:
    """Encode uint8 pixels `[H, W]` or RGB `[H, W, 3]` as "jpg" or "png"."""
    if form == "jpg":
        pixels = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[:, :, None])
        colours = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "444")
        return bytes(simplejpeg.encode_jpeg(pixels, quality, *colours))
    ok, buffer = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    if not ok:
        raise ImageError("PNG encoding failed")
    return bytes(buffer)


def store_mask(mask: bytes, name: str, stored: Stored) -> bytes:
    """Return a mask as PNG of 0 and 255 at the size of its stored image (nearest); raises ImageError.

    One of another size than its image is refused: where in the image is it?
    """
    wanted = tuple(round(side / scale) for side, scale in zip(stored.shape, stored.scale, strict=True))
    try:
        size = size_of(mask)
        inside = np.where(decode_mask(mask), np.uint8(255), np.uint8(0)) if size == wanted else None
    except ImageError as error:
        raise ImageError(str(error), "mask_unreadable") from None
    if inside is None:
        sizes = f"is {size[1]} x {size[0]}, its image {wanted[1]} x {wanted[0]}"
        raise ImageError(f"{name!r} {sizes}: masks are never stretched", "bad_mask")
    if inside.shape != stored.shape:
        inside = cv2.resize(inside, stored.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return encode(inside, "png")


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file as it is stored, from its header; raises ImageError."""
    return size_of(read_image(path))
