"""Where an image's pixels, the model's input and a tower's cells lie on each other, and maps carried between them.

Pure numpy. Coordinates are edges, as in `Box`: pixel i covers [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vlp.batch import PatchGrid

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the pixels of one image lie on the model's input: `input = scale * image + offset`, on edges, per axis (y, x).

    `height`, `width` of the image; `size` of the input; `content` is the part of the input that shows the image,
    `(x1, y1, x2, y2)`.
    """

    height: int
    width: int
    size: int
    scale: tuple[float, float]
    offset: tuple[float, float]

    @property
    def content(self) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = self.to_input((0, 0, self.width, self.height))
        return max(x1, 0.0), max(y1, 0.0), min(x2, self.size), min(y2, self.size)

    def to_input(self, xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return a box of the image in input pixels, not clipped to the input."""
        (sy, sx), (ty, tx) = self.scale, self.offset
        return xyxy[0] * sx + tx, xyxy[1] * sy + ty, xyxy[2] * sx + tx, xyxy[3] * sy + ty

    def to_image(self, xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Return a box of the input in image pixels, not clipped to the image."""
        (sy, sx), (ty, tx) = self.scale, self.offset
        return (xyxy[0] - tx) / sx, (xyxy[1] - ty) / sy, (xyxy[2] - tx) / sx, (xyxy[3] - ty) / sy

    def map_to_image(self, values: np.ndarray) -> np.ndarray:
        """Return a map on the input [S, S] as float32 on the image's pixels [H, W], NaN where the model never looked.

        Bilinear at pixel centres; at the border of the content the outermost values continue, so that padding does not
        bleed in.
        """
        if values.shape != (self.size, self.size):
            raise ValueError(f"expected a map of {self.size} x {self.size}, found {list(values.shape)}")
        x1, y1, x2, y2 = self.content
        (sy, sx), (ty, tx) = self.scale, self.offset
        rows = (np.arange(self.height) + 0.5) * sy + ty
        columns = (np.arange(self.width) + 0.5) * sx + tx
        result = _sample(values, rows - 0.5, columns - 0.5, (y1, y2 - 1), (x1, x2 - 1))
        result[(rows < 0) | (rows > self.size)] = np.nan
        result[:, (columns < 0) | (columns > self.size)] = np.nan
        return result


def _sample(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, row_range: Range, column_range: Range
) -> np.ndarray:
    """Read `values` [h, w] bilinearly at fractional indices, clamped to the ranges -> float32 [rows, columns]."""
    values = np.asarray(values, np.float32)
    for axis, (where, (low, high)) in enumerate(((rows, row_range), (columns, column_range))):
        last = values.shape[axis] - 1
        where = np.clip(where, min(max(low, 0.0), last), max(min(high, last), 0.0))
        floor = np.minimum(where.astype(np.int64), max(last - 1, 0))
        share = (where - floor).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        here, there = (np.take(values, np.minimum(floor + step, last), axis=axis) for step in (0, 1))
        values = here + (there - here) * share
    return values


def resample_grid(cells: np.ndarray, grid: PatchGrid, size: int) -> np.ndarray:
    """Spread a map over a tower's cells [h, w] onto the input's pixels -> float32 [size, size].

    Bilinear between the cells' true centres, which `grid` states; beyond the outermost centres their values continue.
    """
    if cells.shape != (grid.height, grid.width):
        raise ValueError(f"expected {grid.height} x {grid.width} cells, found {list(cells.shape)}")
    centres = np.arange(size) + 0.5
    rows = (centres - grid.offset[0]) / grid.stride[0]
    columns = (centres - grid.offset[1]) / grid.stride[1]
    return _sample(cells, rows, columns, (0, grid.height - 1), (0, grid.width - 1))
