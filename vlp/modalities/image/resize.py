"""Resizing of uint8 pixels, the three ways an `ImageSpec` may ask for. No torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Return uint8 pixels [H, W] or [H, W, 3] at another size: `area`, `bilinear` or `bicubic` (see `ImageSpec`)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation == "area":
        shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
        if shrinks and pixels.ndim == 2:
            return shrink_grey(pixels, height, width)
        how: Any = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized: np.ndarray = cv2.resize(pixels, (width, height), interpolation=how)
        return resized
    from PIL import Image

    how = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def shrink_grey(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return what OpenCV's INTER_AREA does to uint8 [H, W], in half of its time.

    Each pixel is the mean of the area it covers. That is one sparse matrix for the rows and one for the columns, so rows
    go first and whole rows are added up at once. The same to the last bit but for a pixel in 100,000 whose mean lies
    between two values.
    """
    rows, columns = coverage(pixels.shape[0], height), coverage(pixels.shape[1], width)
    narrow = columns @ np.ascontiguousarray((rows @ pixels.astype(np.float32)).T)
    return np.ascontiguousarray(np.rint(narrow).astype(np.uint8).T)


@lru_cache(maxsize=256)
def coverage(old: int, new: int) -> csr_matrix:
    """Return the shares of `old` cells in each of `new` that span the same length, float32 [new, old], rows sum to 1."""
    from scipy.sparse import csr_matrix

    scale = old / new
    start = np.arange(new)[:, None] * scale
    cells = np.floor(start + 1e-9).astype(np.int32) + np.arange(int(np.ceil(scale)) + 1, dtype=np.int32)
    shares = (np.minimum(np.minimum(start + scale, old), cells + 1) - np.maximum(start, cells)) / scale
    kept = shares > 1e-7
    counts = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return csr_matrix((shares[kept].astype(np.float32), cells[kept], counts), shape=(new, old))
