"""Images for the report as data URIs: small images, and heat maps with a fixed colour scale. JPEG and PNG, in memory."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIDE = 192
STOPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
WARM = np.array([[64, 16, 12], [176, 38, 28], [236, 96, 32], [252, 176, 60], [255, 248, 200]], dtype=np.float64)
COOL = np.array([[10, 24, 60], [24, 62, 128], [48, 116, 190], [120, 178, 224], [214, 236, 250]], dtype=np.float64)
"""Colours of a map above and below zero, from none to full; RGB."""


def pixels_of(image: bytes, side: int | None = None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return RGB pixels, the longer side at most `side`, and the original height and width."""
    import cv2

    from vlp.modalities.image.decode import decode

    pixels = decode(image, 3)
    height, width = pixels.shape[:2]
    if side and max(height, width) > side:
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(pixels, dtype=np.uint8), (height, width)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return RGB pixels as a JPEG, RGBA pixels as a PNG, in a data URI."""
    import cv2

    channels = pixels.shape[-1]
    kind, options = ("png", []) if channels == 4 else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 84])
    content = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels[..., [2, 1, 0, 3][:channels]]), options)[1]
    return f"data:image/{kind};base64," + base64.b64encode(content.tobytes()).decode()


def thumbnail(image: bytes, side: int = SIDE) -> str:
    """Return an encoded image as a small data URI."""
    return data_uri(pixels_of(image, side)[0])


def heat(values: ArrayLike, scale: float, side: int = 96) -> str:
    """Return a map [H, W] as a transparent layer, coloured from -scale to +scale; what the model never saw is hatched grey."""
    import cv2

    field = np.asarray(values, dtype=np.float32)
    shrink = min(1.0, side / max(field.shape))
    size = (max(1, round(field.shape[1] * shrink)), max(1, round(field.shape[0] * shrink)))
    unseen = cv2.resize((~np.isfinite(field)).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    field = cv2.resize(np.nan_to_num(field), size, interpolation=cv2.INTER_AREA)
    strength = np.clip(np.abs(field) / max(scale, 1e-9), 0, 1)
    colour = np.where((field >= 0)[..., None], ramp(WARM, strength), ramp(COOL, strength))
    alpha = np.clip(strength * 1.25, 0, 0.82)
    layer = np.concatenate([colour, 255 * alpha[..., None]], axis=-1)
    layer[unseen] = (128, 128, 128, 150)
    return data_uri(np.rint(layer).astype(np.uint8))


def ramp(colours: NDArray[np.float64], strength: NDArray[Any]) -> NDArray[np.float64]:
    """Return the colour at each strength in [0, 1]."""
    return np.stack([np.interp(strength, STOPS, colours[:, channel]) for channel in range(3)], axis=-1)
