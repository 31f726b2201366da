"""A contact sheet: samples with their boxes, masks and texts, as one PNG or one self-contained HTML page."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlp.modalities.image.decode import ImageError, decode, decode_mask
from vlp.sample import Sample

from .store import encode

Array = np.ndarray[Any, Any]
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
"""RGB, distinguishable with any colour vision (Okabe and Ito)."""

SIDE, TEXT_HEIGHT, LINE = 320, 150, 15
TEMPLATE = Path(__file__).with_name("contact_sheet.html.jinja")


def picture(sample: Sample, side: int = SIDE) -> Array:
    """Return the image of a sample, RGB uint8 `[side, side, 3]`, padded to a square, boxes and mask outlines drawn."""
    assert isinstance(sample.image, bytes)
    try:
        pixels = decode(sample.image, 3)
    except ImageError:
        pixels = np.zeros((side, side, 3), np.uint8)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR).copy()
    for number, mask in enumerate(sample.masks.values()):
        with suppress(ImageError):
            inside = cv2.resize(decode_mask(mask).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(shown, outlines, -1, COLOURS[-1 - number % len(COLOURS)], 1)
    for number, box in enumerate(sample.boxes):
        x1, y1, x2, y2 = (round(value * scale) for value in box.xyxy)
        cv2.rectangle(shown, (x1, y1), (x2 - 1, y2 - 1), COLOURS[number % len(COLOURS)], 1)
    sheet = np.zeros((side, side, 3), np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    sheet[top : top + size[1], left : left + size[0]] = shown
    return sheet


def facts(sample: Sample) -> list[str]:
    """Return what is known of a sample besides its text, one line each, no ids of patients or studies."""
    labels = [f"{'? ' if value == -1 else ''}{name}" for name, value in sample.labels.items() if value != 0]
    concepts = [f"{'no ' if mention.assertion == 'absent' else ''}{mention.text}" for mention in sample.concepts]
    made = ", ".join(filter(None, (sample.split, sample.modality, sample.view)))
    return [line for line in (made, "; ".join(labels), "; ".join(concepts)) if line]


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
