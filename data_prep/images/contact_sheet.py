"""A contact sheet: samples with their boxes, masks and texts, as one PNG or one self-contained HTML page."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlp.modalities.image.decode import ImageError, decode, decode_mask
from vlp.sample import Sample

from .planes import planes_of
from .store import encode

Array = np.ndarray[Any, Any]
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
"""RGB, distinguishable with any colour vision (Okabe and Ito)."""

SIDE, TEXT_HEIGHT, LINE = 320, 150, 15
TEMPLATE = Path(__file__).with_name("contact_sheet.html.jinja")


def picture(sample: Sample, side: int = SIDE) -> Array:
    """Return the image of a sample, RGB uint8 `[side, side, 3]`, padded to a square, boxes and mask outlines drawn.

    Of a volume three planes: axial, coronal beside it, sagittal below.
    """
    assert isinstance(sample.image, bytes)
    sheet = np.zeros((side, side, 3), np.uint8)
    if sample.volume is None:
        try:
            pixels = decode(sample.image, 3)
        except ImageError:
            return sheet
        masks = []
        for number, mask in enumerate(sample.masks.values()):
            with suppress(ImageError):
                masks.append((number, decode_mask(mask)))
        return _drawn(pixels, pixels.shape[:2], masks, [(at, box.xyxy) for at, box in enumerate(sample.boxes)], side)
    half = side // 2
    with suppress(ImageError):
        for plane, (top, left) in zip(planes_of(sample), ((0, 0), (0, half), (half, 0)), strict=True):
            pixels = np.repeat(plane.pixels[:, :, None], 3, axis=2)
            drawn = _drawn(pixels, plane.size, plane.masks, plane.boxes, half)
            cv2.putText(
                drawn, plane.left, (3, half // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA
            )
            sheet[top : top + half, left : left + half] = drawn
    return sheet


def _drawn(
    pixels: Array,
    extent: Sequence[float],
    masks: Iterable[tuple[int, Array]],
    boxes: Iterable[tuple[int, tuple[float, ...]]],
    side: int,
) -> Array:
    """Return pixels that are `extent` high and wide in a square of `side`, with what is marked on them."""
    scale = side / max(extent)
    size = (max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale)))
    scales = [extent[1] / pixels.shape[1] * scale, extent[0] / pixels.shape[0] * scale]
    method = cv2.INTER_AREA if max(scales) < 1 else cv2.INTER_LINEAR
    shown = cv2.resize(pixels, size, interpolation=method).copy()
    for number, mask in masks:
        inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, COLOURS[-1 - number % len(COLOURS)], 1)
    for number, box in boxes:
        x1, y1, x2, y2 = (round(edge * along) for edge, along in zip(box, 2 * scales, strict=True))
        cv2.rectangle(shown, (x1, y1), (x2 - 1, y2 - 1), COLOURS[number % len(COLOURS)], 1)
    sheet = np.zeros((side, side, 3), np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    sheet[top : top + size[1], left : left + size[0]] = shown
    return sheet


def facts(sample: Sample) -> list[str]:
    """Return what is known of a sample besides its text, one line each, no ids of patients or studies."""
    labels = [f"{'? ' if value == -1 else ''}{name}" for name, value in sample.labels.items() if value != 0]
    concepts = [f"{'no ' if mention.assertion == 'absent' else ''}{mention.text}" for mention in sample.concepts]
    made = ", ".join(filter(None, (sample.split, sample.modality, sample.view, *_size(sample))))
    return [line for line in (made, "; ".join(labels), "; ".join(concepts)) if line]


def _size(sample: Sample) -> list[str]:
    if sample.volume is None:
        return []
    sides, spacing = (" x ".join(f"{side:.3g}" for side in of) for of in (sample.volume.shape, sample.volume.spacing))
    return [f"{sides} voxels of {spacing} mm" if min(sample.volume.spacing) > 0 else f"{sides} voxels, spacing unknown"]


def text_of(sample: Sample) -> str:
    """Return the report, or else the captions."""
    return sample.report.text if sample.report is not None else " | ".join(sample.captions)


def render_png(samples: Sequence[Sample], columns: int = 4) -> bytes:
    """Return the sheet as PNG; long texts are cut with an ellipsis."""
    rows = -(-len(samples) // columns)
    sheet = np.full((max(rows, 1) * (SIDE + TEXT_HEIGHT), columns * SIDE, 3), 24, np.uint8)
    for number, sample in enumerate(samples):
        top, left = number // columns * (SIDE + TEXT_HEIGHT), number % columns * SIDE
        sheet[top : top + SIDE, left : left + SIDE] = picture(sample)
        lines: list[tuple[str, tuple[int, ...]]] = [(sample.key, (160, 160, 160))]
        lines += [(box.phrase, COLOURS[at % len(COLOURS)]) for at, box in enumerate(sample.boxes[:3])]
        wrapped = [line for part in (*facts(sample), text_of(sample)) for line in textwrap.wrap(part, 50)]
        lines += [(line, (230, 230, 230)) for line in wrapped]
        most = TEXT_HEIGHT // LINE
        if len(lines) > most:
            lines[most - 1 :] = [(lines[most - 1][0][:46] + " ...", lines[most - 1][1])]
        for at, (line, colour) in enumerate(lines):
            place = (left + 4, top + SIDE + 12 + at * LINE)
            plain = line.encode("ascii", "replace").decode()
            cv2.putText(sheet, plain[:52], place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, 1, cv2.LINE_AA)
    return encode(sheet, "png")


def render_html(samples: Sequence[Sample], title: str) -> str:
    """Return the sheet as one HTML page without anything to load from elsewhere."""
    from jinja2 import Environment, StrictUndefined

    pages = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=True, undefined=StrictUndefined)
    return pages.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        samples=samples,
        picture=lambda sample: base64.b64encode(encode(picture(sample, 2 * SIDE), "png")).decode(),
        colours=COLOURS,
        facts=facts,
        text_of=text_of,
    )
