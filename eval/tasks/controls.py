"""Controls of a map's score: the same score of maps made without the image or the phrase, or with another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..metrics.grounding import spans

if TYPE_CHECKING:
    from ..data.dataset import Data

Rectangle = tuple[float, ...]
"""x1, y1, x2, y2, or x1, y1, z1, x2, y2, z2, as fractions of an image or a volume."""

CONTROLS = {
    "shuffled": "same phrase, another patient's image",
    "wrong_phrase": "another finding's phrase, same image",
    "prior": "text alone (mean of other patients, no image)",
    "centre": "the middle of the image (no text, no image)",
}
SHORT = {
    "shuffled": "shuffled image",
    "wrong_phrase": "wrong phrase",
    "prior": "location prior",
    "centre": "centre box",
}
"""What the controls are called where room is short."""


def control_of(name: str, scores: Sequence[str]) -> dict[str, str]:
    """Return what a metric's entry says of it when it is a control of one of `scores`; empty for any other."""
    for control, words in CONTROLS.items():
        base = name.removesuffix(f"_{control}")
        if base != name and base.removeprefix("bare_") in scores:
            return {"control_of": base, "control": words}
    return {}


def box_map(box: Rectangle, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a map of an image of that size, of a box given as fractions of it: highest at its centre, flat outside of it."""
    inside = np.full(size, np.inf)
    for axis, ((start, end), side) in enumerate(zip(spans(box), size, strict=True)):
        low, high = start * side, end * side
        along = 1 - np.abs((np.arange(side) + 0.5 - (low + high) / 2) / max(1.0, (high - low) / 2))
        inside = np.minimum(inside, along.reshape(-1, *[1] * (len(size) - axis - 1)))
    return np.where(inside > 0, 1 + 0.01 * inside, 0).astype(np.float32)


def centre_map(size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the map of a box in the middle of an image of that size, half as long along each axis."""
    return box_map((*[0.25] * len(size), *[0.75] * len(size)), size)


def partners(data: Data, indices: Sequence[int], seed: int) -> list[int]:
    """Return for each place the place of another patient's image, each used about once; itself where there is no other."""
    order = np.random.default_rng(seed).permutation(len(indices))
    result = list(range(len(indices)))
    for at, place in enumerate(order):
        for step in range(1, len(order)):
            other = int(order[(at + step) % len(order)])
            if data.patient(indices[other]) != data.patient(indices[int(place)]):
                result[int(place)] = other
                break
    return result
