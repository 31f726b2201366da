"""Image corruptions at graded severity, deterministic: the same image is always damaged in the same way."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def _seed(pixels: Pixels) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(pixels.tobytes()))


def _to_uint8(values: NDArray[np.float64]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(pixels: Pixels, severity: int) -> Pixels:
    """Add grey Gaussian noise of 4 % of full scale per step of severity."""
    grain = _seed(pixels).standard_normal(pixels.shape[:2]) * 255 * 0.04 * severity
    return _to_uint8(pixels + (grain[..., None] if pixels.ndim == 3 else grain))


def blur(pixels: Pixels, severity: int) -> Pixels:
    """Blur with a Gaussian of 0.6 % of the shorter side per step of severity."""
    import cv2

    sigma = 0.006 * severity * min(pixels.shape[:2])
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), dtype=np.uint8)


def contrast(pixels: Pixels, severity: int) -> Pixels:
    """Draw all values towards the mean: by 16 % per step of severity."""
    mean = float(pixels.mean())
    return _to_uint8(mean + (pixels.astype(np.float64) - mean) * (1 - 0.16 * severity))


def occlusion(pixels: Pixels, severity: int) -> Pixels:
    """Black out a square of 4 % of the area per step of severity, somewhere inside of the image."""
    height, width = pixels.shape[:2]
    side = int((0.04 * severity * height * width) ** 0.5)
    rng = _seed(pixels)
    top, left = (int(rng.integers(0, max(1, edge - side + 1))) for edge in (height, width))
    result = pixels.copy()
    result[top : top + side, left : left + side] = 0
    return result


def scramble(pixels: Pixels, severity: int) -> Pixels:
    """Shuffle a grid of 4 x 4 tiles (times the severity): the same pixels, no anatomy. Out of distribution by design."""
    count = 4 * severity
    rows = np.array_split(np.arange(pixels.shape[0]), count)
    columns = np.array_split(np.arange(pixels.shape[1]), count)
    height, width = min(map(len, rows)), min(map(len, columns))
    tiles = [pixels[r[:height]][:, c[:width]] for r in rows for c in columns]
    order = _seed(pixels).permutation(len(tiles)).reshape(count, count)
    return np.vstack([np.hstack([tiles[place] for place in line]) for line in order])


CORRUPTIONS: dict[str, Callable[[Pixels, int], Pixels]] = {
    damage.__name__: damage for damage in (noise, blur, contrast, occlusion, scramble)
}
