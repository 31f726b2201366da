"""The error of an image that is not read, and the limit on its pixels."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""Largest image that is decoded when nothing else is said: above any radiograph, below a decompression bomb."""


class ImageError(ValueError):
    """An image that cannot be decoded, or is refused; `reason` is a stable word to count by.

    `counted` is False for a file that is in order but shows nothing (a report, a segmentation): no sign of bad data.
    """

    def __init__(self, message: str, reason: str = "image_unreadable", *, counted: bool = True) -> None:
        super().__init__(message)
        self.reason, self.counted = reason, counted


def size_error(height: int, width: int, max_pixels: int) -> ImageError:
    """Return the error of an image without pixels, or of more than allowed."""
    return ImageError(
        f"the image is {width} x {height} pixels, the limit is {max_pixels} pixels (image.max_pixels, --max-pixels)",
        "image_too_large" if width * height > max_pixels else "image_unreadable",
    )
