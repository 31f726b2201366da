"""Regions as annotation tools write them: polygons and run lengths to masks, XML without entities. Pure functions."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any
from xml.parsers import expat

import cv2
import numpy as np

from vlp.data.tables.cells import CellError, describe

Mask = np.ndarray[Any, np.dtype[np.uint8]]
MAX_XML = 16 << 20
DEEPEST = 64


def polygon_mask(corners: Sequence[Any], height: int, width: int) -> Mask:
    """Return the inside of a polygon `[x1, y1, x2, y2, ...]` in pixels as 0 and 255 `[height, width]`; raises CellError.

    Corners are edges of pixels, as boxes are: (0, 0, w, 0, w, h, 0, h) is the whole image. A pixel is inside where its
    centre is; what the outline encloses twice is outside (even-odd).
    """
    are_numbers = all(type(value) in (int, float) and math.isfinite(value) for value in corners)
    if len(corners) < 6 or len(corners) % 2 or not are_numbers:
        words = f"a polygon needs three or more corners of two finite numbers, found {len(corners)}"
        raise CellError("bad_mask", words)
    points = np.asarray(corners, np.float64).reshape(-1, 2)
    x1, y1 = points.T
    x2, y2 = np.roll(points, -1, axis=0).T
    mask = np.zeros((height, width), np.uint8)
    first, last = max(0, math.floor(y1.min() - 0.5)), min(height, math.ceil(y1.max() + 0.5))
    for row in range(first, last):
        centre = row + 0.5
        crosses = (y1 <= centre) != (y2 <= centre)
        places = np.sort(
            x1[crosses] + (centre - y1[crosses]) * (x2[crosses] - x1[crosses]) / (y2[crosses] - y1[crosses])
        )
        columns = np.clip(np.ceil(places - 0.5), 0, width).astype(np.int64)
        for start, end in zip(columns[::2], columns[1::2], strict=True):
            mask[row, start:end] = 255
    return mask


def run_length_mask(value: Mapping[str, Any], height: int, width: int) -> Mask:
    """Return COCO's run lengths `{"size": [h, w], "counts": list or text}` as 0 and 255 `[height, width]`; raises CellError.

    Runs go down the columns and begin with one of background. The size must be the image's.
    """
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise CellError("bad_mask", f"run lengths for another size than the image's {height} x {width} (height, width)")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise CellError("bad_mask", f"run lengths are counts of pixels, found {describe(counts)}")
    if sum(runs) != height * width:
        raise CellError("bad_mask", f"run lengths of {sum(runs)} pixels for an image of {height * width}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.where(inside.reshape(width, height).T, np.uint8(255), np.uint8(0))


def _unpacked(text: str) -> list[int]:
    """Return the counts in COCO's compressed text: 5 bits a letter, the difference to the count two before."""
    runs: list[int] = []
    at = 0
    while at < len(text):
        number, shift, more = 0, 0, True
        while more:
            if at >= len(text) or not 48 <= ord(text[at]) < 112 or shift > 40:
                raise CellError("bad_mask", "the compressed run lengths are damaged")
            bits = ord(text[at]) - 48
            number |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
    return runs


def join(masks: Sequence[Mask]) -> bytes:
    """Return the union of masks of one size as PNG."""
    union = masks[0] if len(masks) == 1 else np.maximum.reduce(list(masks))
    return bytes(cv2.imencode(".png", union)[1])


def parse_xml(data: bytes) -> ET.Element:
    """Return the root of an XML file of others; raises CellError for entities, depth, size and broken syntax."""
    if len(data) > MAX_XML:
        raise CellError("bad_xml", f"{len(data)} bytes of XML, the limit is {MAX_XML}")
    depth = 0

    def start(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise CellError("bad_xml", f"XML nested more than {DEEPEST} deep")

    def end(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def entity(*_: Any) -> None:
        raise CellError("bad_xml", "XML that declares entities is not read")

    look = expat.ParserCreate()
    look.StartElementHandler, look.EndElementHandler = start, end
    look.EntityDeclHandler = entity
    try:
        look.Parse(data, True)
        return ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, LookupError, ValueError) as error:
        place = getattr(error, "lineno", None)
        raise CellError("bad_xml", f"not XML{f': line {place}' if place else ''}") from None
