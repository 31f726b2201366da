"""What the page draws of a grounding on volumes: slices through the maximum of a map, and a stack of axial slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlp.modalities.volume.planes import AXES, AXIAL, cut
from vlp.modalities.volume.store import decode

from ...drawing import images, slices
from ...maps.phrase_maps import Map
from ..base import Context
from ..controls import Rectangle
from .query import UNLABELLED

if TYPE_CHECKING:
    from vlp.modalities.volume.volume import Volume
    from vlp.sample import Sample

SIDE = 192
STACK = 16
"""So many axial slices can be looked through: evenly spaced, the one with the maximum among them."""
WORDS = (
    "Examples from the highest to the lowest CNR, evenly spaced. Each card: slices through the maximum (cross) of the phrase's "
    "map, with its boxes (dashed where the slice misses them); the same phrase on another patient's volume; axial slices "
    "from feet to head: choose one by the row of buttons, or with the arrow keys. The patient's right is on the left."
)


def pictures(
    context: Context, pair: tuple[int, int], heats: tuple[Map, Map], scale: float, boxes: Sequence[Rectangle]
) -> dict[str, Any]:
    """Return slices of a volume and of another patient's, each through its own map's maximum, and a stack of the first."""
    first, second = (decode(context.data.image(index)) for index in pair)
    peak = peak_of(heats[0])
    own = [_view(first, heats[0], plane, peak[plane], scale, boxes, peak) for plane in AXES]
    far = peak_of(heats[1])
    shuffled = [_view(second, heats[1], plane, far[plane], scale, (), far) for plane in AXES]
    stack = []
    for at in levels(first.shape[0], peak[0]):
        marked = peak if at == peak[0] else None
        view = _view(first, heats[0], AXIAL, at, scale, boxes, marked)
        stack.append(view | {"chosen": at == peak[0], "name": f"slice {at + 1} of {first.shape[0]}"})
    return {"own": own, "shuffled": shuffled, "stack": stack}


def peak_of(heat: Map) -> tuple[int, ...]:
    """Return the voxel (z, y, x) of a map's first maximum."""
    return tuple(int(place) for place in np.unravel_index(int(np.nanargmax(heat)), heat.shape))


def levels(depth: int, peak: int) -> list[int]:
    """Return the slices of a stack: `STACK` evenly spaced ones, the nearest of them moved to the maximum."""
    places = np.unique(np.linspace(0, depth - 1, min(STACK, depth)).round().astype(int))
    places[int(np.abs(places - peak).argmin())] = peak
    return sorted({int(place) for place in places})


def _view(
    volume: Volume,
    heat: Map,
    plane: int,
    at: int,
    scale: float,
    boxes: Sequence[Rectangle],
    peak: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Return a slice with its map; `peak`: the maximum, where it lies on this slice."""
    view = slices.view(volume, plane, at, boxes, SIDE) | {"heat": images.heat(cut(heat, plane, at), scale)}
    centre = None if peak is None else slices.on_picture(volume, plane, [place + 0.5 for place in peak])
    return view | {"peak": list(centre) if centre else None}


def sample(image: bytes, record: Sample, show_text: bool) -> dict[str, Any]:
    """Return an axial slice through the first box of a volume, with all boxes that it crosses."""
    volume = decode(image)
    at = int((record.boxes[0].xyxy[2] + record.boxes[0].xyxy[5]) / 2)
    found = slices.view(volume, AXIAL, min(max(at, 0), volume.shape[0] - 1), (), 320)
    shown = [
        {
            "xyxy": slices.outline(volume, AXIAL, box.xyxy),
            "label": box.label or (box.phrase if show_text else UNLABELLED),
        }
        for box in record.boxes
        if slices.crosses(box.xyxy, AXIAL, at)
    ]
    return {name: found[name] for name in ("image", "width", "height")} | {"boxes": shown}
