"""A warning for text burned into an image (a name, a date): rows of small, sharp, very bright characters.

A heuristic, not a reader: it flags side markers too, and misses text that is faint, large or inside the anatomy.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vlp.modalities.image.decode import ImageError, decode

FEWEST = 4


def has_text(image: bytes | np.ndarray[Any, Any]) -> bool:
    """Return whether an image (encoded, or uint8 grey `[H, W]`) shows a line of at least four character-like shapes."""
    try:
        grey = decode(image, 1) if isinstance(image, bytes) else image
    except ImageError:
        return False
    if min(grey.shape) < 32:
        return False
    shrink = 1024 / max(grey.shape)
    if shrink < 1:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return any(_lines(grey_or_inverse) for grey_or_inverse in (grey, 255 - grey))


def _lines(grey: np.ndarray[Any, Any]) -> bool:
    """Return whether bright shapes of character size stand in a row: same height, same base line, evenly close."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (15, 15))
    peaks = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel)
    strong = (peaks > 90).astype(np.uint8)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(strong, connectivity=8)
    characters = sorted(
        (x, y, width, height)
        for x, y, width, height, area in boxes[1:count].tolist()
        if 7 <= height <= 40 and 2 <= width <= 1.5 * height and 0.15 <= area / (width * height) <= 0.95
    )
    for position, (x, y, width, height) in enumerate(characters):
        row, edge = 1, x + width
        for other_x, other_y, other_width, other_height in characters[position + 1 :]:
            if other_x - edge > 1.5 * height:
                break
            level = abs(other_y + other_height - y - height) <= 0.25 * height
            if level and abs(other_height - height) <= 0.35 * height and other_x >= edge - 1:
                row, edge = row + 1, other_x + other_width
        if row >= FEWEST:
            return True
    return False
