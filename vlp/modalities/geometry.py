"""Where a source's pixels or voxels, the model's input and a tower's cells lie on each other, in any number of dimensions.

Pure numpy. Axes are in the order of the array (y, x; z, y, x). Coordinates are edges: pixel i covers [i, i + 1).
A box is as `Box.xyxy`: its low corner, then its high corner, each with x first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlp.batch import Grid

Shape = tuple[int, ...]
Box = tuple[float, ...]
Range = tuple[float, float]
Affine = tuple[tuple[float, ...], ...]
"""Row per axis: the linear part, then the shift."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a source lies on the model's input: `input = turn(scale * source + offset)`, on edges, axis by axis.

    `source`, `input`: their shapes. `turn`: the affine of a rotation or flip that an augmentation drew, on the input; None
    where there is none.
    """

    source: Shape
    input: Shape
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    turn: Affine | None = None

    @property
    def content(self) -> Box:
        """The box of the input that shows the source (its bounding box where the source was turned)."""
        low_high = self.box_to_input((*[0] * len(self.source), *reversed(self.source)))
        half = len(self.source)
        inside = zip(low_high[half:], reversed(self.input), strict=True)
        return (*(max(edge, 0.0) for edge in low_high[:half]), *(min(edge, side) for edge, side in inside))

    def turned(self, matrix: Sequence[Sequence[float]]) -> Geometry:
        """Return the geometry after one more affine on the input: a row per axis, the linear part and the shift."""
        rows = np.asarray(matrix, np.float64)
        if self.turn is not None:
            rows = rows @ np.vstack([self.turn, np.eye(len(self.scale) + 1)[-1]])
        return replace(self, turn=tuple(tuple(row) for row in rows.tolist()))

    def rotated(self, degrees: float, axes: tuple[int, int] = (-2, -1)) -> Geometry:
        """Return the geometry after a rotation of the input about its centre, in the plane of two axes.

        For an image counter-clockwise, as OpenCV's `getRotationMatrix2D`.
        """
        first, second = (axis % len(self.input) for axis in axes)
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        linear = np.eye(len(self.input))
        linear[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
        centre = np.array(self.input) / 2
        return self.turned(np.column_stack([linear, centre - linear @ centre]).tolist())

    def flipped(self, axis: int = -1) -> Geometry:
        """Return the geometry after a mirroring of the input along an axis."""
        matrix = np.eye(len(self.input), len(self.input) + 1)
        matrix[axis, axis % len(self.input)] = -1
        matrix[axis, -1] = self.input[axis]
        return self.turned(matrix.tolist())

    def to_input(self, points: Any) -> np.ndarray:
        """Return points [..., n] of the source on the input."""
        moved = np.asarray(points, np.float64) * self.scale + self.offset
        if self.turn is None:
            return np.asarray(moved)
        turn = np.asarray(self.turn)
        return np.asarray(moved @ turn[:, :-1].T + turn[:, -1])

    def to_source(self, points: Any) -> np.ndarray:
        """Return points [..., n] of the input on the source."""
        moved = np.asarray(points, np.float64)
        if self.turn is not None:
            turn = np.asarray(self.turn)
            moved = (moved - turn[:, -1]) @ np.linalg.inv(turn[:, :-1]).T
        return np.asarray((moved - self.offset) / self.scale)

    def box_to_input(self, box: Box) -> Box:
        """Return a box of the source on the input, not clipped; of a turned one the bounding box of its corners."""
        return _around(self.to_input(_corners(box)))

    def box_to_source(self, box: Box) -> Box:
        """Return a box of the input on the source, not clipped; of a turned one the bounding box of its corners."""
        return _around(self.to_source(_corners(box)))

    def mask_to_input(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask of the source on the input, by the nearest pixel; zero beyond the source."""
        return _nearest(mask, self.source, self.to_source(_centres(self.input)))

    def mask_to_source(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask of the input on the source, by the nearest pixel; zero where the model never looked."""
        return _nearest(mask, self.input, self.to_input(_centres(self.source)))

    def map_to_source(self, values: np.ndarray) -> np.ndarray:
        """Return a map on the input as float32 on the source's pixels, NaN where the model never looked.

        Linear between pixel centres; at the border of the content the outermost values continue, so that padding does not
        bleed in (a turned map has no such border).
        """
        _expect(values, self.input, "a map")
        if self.turn is not None:
            from scipy.ndimage import map_coordinates

            points = self.to_input(_centres(self.source))
            outside = ((points < 0) | (points > self.input)).any(-1)
            whole = np.asarray(values, np.float32)
            turned = map_coordinates(whole, np.moveaxis(points - 0.5, -1, 0), order=1, mode="nearest")
            return np.where(outside, np.float32(np.nan), turned)
        axes = range(len(self.source))
        places = [(np.arange(self.source[axis]) + 0.5) * self.scale[axis] + self.offset[axis] for axis in axes]
        content = self.content[len(axes) - 1 :: -1], self.content[: len(axes) - 1 : -1]
        ranges = [(low, high - 1) for low, high in zip(*content, strict=True)]
        result = _sample(values, [place - 0.5 for place in places], ranges)
        for axis, place in enumerate(places):
            result[(slice(None),) * axis + ((place < 0) | (place > self.input[axis]),)] = np.nan
        return result


def resample_grid(cells: np.ndarray, grid: Grid, shape: Shape) -> np.ndarray:
    """Spread a map over a tower's cells onto the input's pixels -> float32 of `shape`.

    Linear between the cells' true centres, which `grid` states; beyond the outermost centres their values continue.
    """
    _expect(cells, grid.shape, "cells")
    axes = zip(shape, grid.stride, grid.offset, strict=True)
    places = [(np.arange(side) + 0.5 - offset) / stride for side, stride, offset in axes]
    return _sample(cells, places, [(0, count - 1) for count in grid.shape])


def _sample(values: np.ndarray, places: Sequence[np.ndarray], ranges: Sequence[Range]) -> np.ndarray:
    """Read values linearly at the fractional indices of each axis, clamped to its range -> float32."""
    values = np.asarray(values, np.float32)
    for axis, (place, (low, high)) in enumerate(zip(places, ranges, strict=True)):
        last = values.shape[axis] - 1
        place = np.clip(place, min(max(low, 0.0), last), max(min(high, last), 0.0))
        floor = np.minimum(place.astype(np.int64), max(last - 1, 0))
        share = (place - floor).astype(np.float32).reshape(-1, *[1] * (values.ndim - axis - 1))
        here, there = (np.take(values, np.minimum(floor + step, last), axis=axis) for step in (0, 1))
        values = here + (there - here) * share
    return values


def _expect(values: np.ndarray, shape: Shape, what: str) -> None:
    if values.shape != tuple(shape):
        raise ValueError(f"expected {what} of {' x '.join(map(str, shape))}, found {list(values.shape)}")


def _centres(shape: Shape) -> np.ndarray:
    """Return the centres of all pixels [*shape, n]."""
    return np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in shape), indexing="ij"), -1)


def _nearest(values: np.ndarray, shape: Shape, points: np.ndarray) -> np.ndarray:
    """Return the values of the pixels that the points lie in, zero for points beyond."""
    _expect(values, shape, "a mask")
    index = np.floor(points).astype(np.int64)
    inside = ((index >= 0) & (index < shape)).all(-1)
    found = np.zeros(points.shape[:-1], values.dtype)
    found[inside] = values[tuple(index[inside].T)]
    return found


def _corners(box: Box) -> np.ndarray:
    """Return a box's corners [2^n, n] in the order of the array's axes."""
    half = len(box) // 2
    return np.array(list(product(*zip(box[half - 1 :: -1], box[: half - 1 : -1], strict=True))))


def _around(points: np.ndarray) -> Box:
    return (*points.min(0)[::-1].tolist(), *points.max(0)[::-1].tolist())
