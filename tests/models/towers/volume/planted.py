"""Volumes with one bright cube each, and where a tower's cells see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlp.modalities.volume.spec import VolumeSpec
from vlp.models.towers.base import ImageTower, build_image_tower

WINDOWS = ("lung", "mediastinum", "bone", "narrow_lung")


def spec(*size: int, channels: int = 1) -> VolumeSpec:
    return VolumeSpec(spacing=(3.0, 1.5, 1.5), size=size, windows=WINDOWS[:channels])  # type: ignore[arg-type]


def build(tree: dict[str, Any], *size: int, channels: int = 1, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_image_tower(tree, spec(*size, channels=channels)).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settle(tower: ImageTower, size: tuple[int, ...]) -> None:
    """Make a random convolutional tower respond smoothly: positive spatial kernels, and statistics that fit them."""
    for module in tower.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and max(module.kernel_size) > 1:
            module.weight.data.abs_()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.weight.data.fill_(1.0)
    tower.train()
    with torch.no_grad():
        tower(noise(2, tower.channels, *size, seed=3))
    tower.eval()


def shift_of_cells(tower: ImageTower, size: tuple[int, ...], cubes: int = 8) -> np.ndarray:
    """Return how far, in cells (z, y, x), the centre of the response lies from the cube that caused it, on average."""
    rng = np.random.default_rng(0)
    grid = tower.grid
    assert len(grid.shape) == len(grid.stride) == len(grid.offset) == 3
    sides = [max(2, int(stride) // 2) for stride in grid.stride]
    lows = [int(0.3 * length) for length in size]
    highs = [max(int(0.7 * length) - side, low + 1) for length, side, low in zip(size, sides, lows, strict=True)]
    corners = rng.integers(lows, highs, (cubes, 3))
    background = noise(1, tower.channels, *size) * 0.1

    def cells(volume: Tensor) -> Tensor:
        with torch.inference_mode():
            found = tower(volume, patches=True).patch_tokens
        assert found is not None and found.shape == (1, grid.cells, tower.patch_width)
        return found

    still, responses = cells(background), []
    for z, y, x in corners:
        volume = background.clone()
        volume[:, :, z : z + sides[0], y : y + sides[1], x : x + sides[2]] += 3.0
        responses.append((cells(volume) - still).square().sum(-1).view(grid.shape))
    response = torch.stack(responses).numpy()
    response = np.where(response > 0.1 * response.max((1, 2, 3), keepdims=True), response, 0)
    total = response.sum((1, 2, 3))
    seen = [(response * index).sum((1, 2, 3)) / total for index in np.indices(grid.shape)]
    where = np.array(grid.offset) + np.array(grid.stride) * np.stack(seen, 1)
    return ((where - (corners + np.array(sides) / 2)) / np.array(grid.stride)).mean(0)
