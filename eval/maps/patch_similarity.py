"""From patch features to a map on the original image: cosine, optional smoothing on the grid, true cell centres.

The way back is the exact inverse of the preprocessing (`vlp.modalities.geometry`); pixels the model never saw are NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlp.modalities.geometry import Geometry, resample_grid

from ..metrics.arithmetic import unit

if TYPE_CHECKING:
    from vlp.batch import Grid


def cell_similarity(patches: ArrayLike, text: ArrayLike, grid: Grid, sigma: float = 0.0) -> NDArray[np.float64]:
    """Return the cosine [h, w] of patches [P, D] (row by row) with a text [D], smoothed by a Gaussian on the grid.

    `sigma` is in cells (BioViL uses 1.5; scipy's reflecting border).
    """
    cells = (unit(patches) @ unit(text)).reshape(grid.shape)
    return smooth(cells, sigma)


def smooth(cells: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return cells after a Gaussian of `sigma` cells; 0 leaves them alone."""
    if sigma <= 0:
        return cells
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(cells, sigma))


def to_image(cells: ArrayLike, grid: Grid, geometry: Geometry) -> NDArray[np.float32]:
    """Return a map over cells [h, w] on the original image [H, W], NaN where the model never looked."""
    values = np.asarray(cells, dtype=np.float32)
    return np.asarray(geometry.map_to_source(resample_grid(values, grid, geometry.input)), dtype=np.float32)
