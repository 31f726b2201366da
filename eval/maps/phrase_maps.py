"""Maps of phrases over an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.batch import Grid

from ..data.spec import DataError
from .patch_similarity import cell_similarity, smooth, to_image
from .saliency import Layer, Tower, find_layer
from .saliency import cells as saliency_cells

if TYPE_CHECKING:
    from ..tasks.base import Context
    from ..tasks.grounding.query import Settings

Map = NDArray[np.float32]


class Maps:
    """Maps of phrases on the images of a task: cosines of patch features read once, or a saliency method on demand."""

    def __init__(self, context: Context, indices: Sequence[int], settings: Settings) -> None:
        context.store.ensure(context.data, indices, patches=settings.source == "patches")  # says which do not decode
        self._geometry = [context.store.geometry(context.data, index) for index in indices]
        self._settings = settings
        if settings.source == "patches":
            self._cells = context.store.patches(context.data, indices)
            grid = context.store.grid
            assert grid is not None
            self._grid = grid
            return
        embedder = context.store.embedder
        if embedder is None or not hasattr(embedder, "tower"):
            raise DataError(f"{settings.source} needs the model itself, and one that gives its tower (`tower()`)")
        self._tower: Tower = embedder.tower()
        self._images = [lambda at=index: embedder.prepare(context.data.image(at))[0] for index in indices]
        first = self._input(0)
        self._layer = find_layer(self._tower, self._tower.normalise(first), settings.layer)
        self._grid = grid_of_layer(self._tower, self._tower.normalise(first), self._layer)

    def _input(self, place: int) -> Any:
        import torch

        return torch.from_numpy(np.array(self._images[place]()))[None].to(self._tower.device)

    def size(self, place: int) -> tuple[int, int]:
        height, width = self._geometry[place].source
        return height, width

    def of(self, place: int, text: NDArray[np.float32]) -> Map:
        """Return the map [H, W] of a text embedding on an image."""
        if self._settings.source == "patches":
            cells = cell_similarity(self._cells[place], text, self._grid, self._settings.sigma)
        else:
            found = saliency_cells(self._tower, self._input(place), text, self._settings.source, self._layer)
            cells = smooth(found, self._settings.sigma)
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
