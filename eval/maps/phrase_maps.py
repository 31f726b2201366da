"""Maps of phrases over an image: cosines of patches with a text, or a saliency method, back on the image's own pixels.

The way back is the exact inverse of the preprocessing (`vlp.modalities.geometry`); pixels the model never saw are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlp.batch import Grid
from vlp.modalities.geometry import Geometry, resample_grid

from ..data.spec import DataError
from ..metrics.arithmetic import unit
from ..models.base import Tower
from .saliency import Layer, find_layer
from .saliency import cells as saliency_cells

if TYPE_CHECKING:
    from ..data.dataset import Data
    from ..embeddings.cache import EmbeddingCache

Map = NDArray[np.float32]
Source = Literal["patches", "gradcam", "gscorecam", "m2ib"]


class Maps:
    """Maps of phrases on the images of a task: cosines of patch features read once, or a saliency method on demand."""

    def __init__(
        self, cache: EmbeddingCache, data: Data, indices: Sequence[int], source: Source, sigma: float, layer: str | None
    ) -> None:
        """Take where maps come from, their smoothing in cells, and the layer of a saliency method (None: the last)."""
        cache.encode_images(data, indices, patches=source == "patches")  # says which do not decode
        self._geometry = [cache.geometry(data, index) for index in indices]
        self._spacing = [cache.spacing(data, index) for index in indices]
        self._source, self._sigma = source, sigma
        if source == "patches":
            self._cells = cache.patches(data, indices)
            assert cache.grid is not None
            self._grid = cache.grid
            return
        if self.is_volume:
            raise DataError(f"{source} is of 2-D towers: a model of volumes is asked by its patches (source: patches)")
        embedder = cache.embedder
        if embedder is None or not hasattr(embedder, "tower"):
            raise DataError(f"{source} needs the model itself, and one that gives its tower (`tower()`)")
        self._tower: Tower = embedder.tower()
        self._images = [lambda at=index: embedder.prepare(data.image(at))[0] for index in indices]
        first = self._input(0)
        self._layer = find_layer(self._tower, self._tower.normalise(first), layer)
        self._grid = grid_of_layer(self._tower, self._tower.normalise(first), self._layer)

    def _input(self, place: int) -> Any:
        import torch

        return torch.from_numpy(np.array(self._images[place]()))[None].to(self._tower.device)

    @property
    def is_volume(self) -> bool:
        return bool(self._spacing and self._spacing[0])

    def shape(self, place: int) -> tuple[int, ...]:
        return self._geometry[place].source

    def spacing(self, place: int) -> tuple[float, ...]:
        """Return the millimetres from voxel to voxel along each axis of a volume; empty for an image."""
        return self._spacing[place]

    def of(self, place: int, text: NDArray[np.float32]) -> Map:
        """Return the map of a text embedding on an image [H, W], or a volume [D, H, W]."""
        if self._source == "patches":
            cells = cell_similarity(self._cells[place], text, self._grid, self._sigma)
        else:
            found = saliency_cells(self._tower, self._input(place), text, self._source, self._layer)
            cells = smooth(found, self._sigma)
        return to_image(cells, self._grid, self._geometry[place])


def grid_of_layer(tower: Tower, image: Any, layer: Layer) -> Grid:
    """Return where a layer's cells lie on the input, followed through every strided layer before it."""
    from vlp.models.towers.patch_grid import trace_grid

    def run() -> tuple[int, int]:
        tower.encode(image)
        return layer.height, layer.width

    grid = trace_grid(tower.module, run, (int(image.shape[-2]), int(image.shape[-1])))
    assert grid is not None
    return grid


def cell_similarity(patches: ArrayLike, text: ArrayLike, grid: Grid, sigma: float = 0.0) -> NDArray[np.float64]:
    """Return the cosine of a grid's patches [P, D] (row by row) with a text [D], smoothed by a Gaussian on the grid.

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
    """Return a map over a grid's cells on the original image, NaN where the model never looked."""
    values = np.asarray(cells, dtype=np.float32)
    return np.asarray(geometry.map_to_source(resample_grid(values, grid, geometry.input)), dtype=np.float32)
