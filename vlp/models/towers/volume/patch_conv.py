"""A small tower for two CPU cores: voxel patches through a two-layer network, then one 3^3 convolution on coarse cells.

Small 3-D convolutions wait for memory on a CPU, so voxels are taken together first, and the convolution takes every second
cell: a dense one was a third of a training step. Local features are of the patch alone and its position: taken after the
convolution, a finding's evidence lies in a neighbour of its cell (on synthetic CTs with cells of 24 mm pointing was .26, and
.76 from the patch). Position comes in before the second layer, so that what a patch holds can mean different things in
different places. The global vector is the mean and the maximum over regions of the body, and the maximum of the local
features, without which a small finding drowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Grid
from vlp.core.config import config
from vlp.modalities.volume.spec import VolumeSpec

from ..base import Features, TowerConfig, image_towers
from .base import VolumeTower, require_whole_patches, to_cells


@config
class PatchConvConfig(TowerConfig):
    """`patch` in voxels; `hidden` units of its network; channels: `width` of the cells inside, `local_width` of those given.

    `stride`: the convolution makes one of so many cells along each axis. `regions`: into how many parts of the body each
    axis is pooled (depth, height, width). `norm: layer` makes a volume's features independent of the batch's, as cached
    embeddings need to be exact, and learns more slowly.
    """

    patch: tuple[int, int, int] = (4, 4, 4)
    hidden: int = 64
    width: int = 64
    local_width: int = 32
    stride: int = 2
    regions: tuple[int, int, int] = (3, 2, 2)
    norm: Literal["batch", "layer"] = "batch"


def _parts(length: int, count: int) -> list[slice]:
    """Return an axis in `count` parts of equal length, which overlap by a cell where the length is no multiple.

    Pooled part by part: ONNX has no adaptive pooling.
    """
    count = min(count, length)
    return [slice(part * length // count, -(-(part + 1) * length // count)) for part in range(count)]


class TokenNorm(nn.Module):
    """Normalisation of tokens [B, P, C], by batch (over all tokens of all volumes) or by layer (each for itself)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        normal: Tensor = self.norm(tokens.flatten(0, 1))
        return normal.view_as(tokens)


@image_towers.register("patch_conv")
class PatchConvTower(VolumeTower):
    """[B, C, D, H, W] -> pooled [B, 2 * width * regions + local_width], cells [B, P, local_width] of one patch each."""

    Config = PatchConvConfig
    config: PatchConvConfig

    def __init__(self, config: PatchConvConfig, spec: VolumeSpec) -> None:
        super().__init__()
        shape = require_whole_patches(spec, config.patch, "model.image.patch")
        self.config, self.channels, self.shape = config, spec.channels, shape
        self.grid = Grid(shape, tuple(map(float, config.patch)), tuple(side / 2 for side in config.patch))
        coarse = [-(-cells // config.stride) for cells in shape]
        self.regions = list(product(*map(_parts, coarse, config.regions)))
        width, hidden, cells = config.width, config.hidden, self.grid.cells
        voxels = spec.channels * config.patch[0] * config.patch[1] * config.patch[2]
        self.width, self.patch_width = 2 * width * len(self.regions) + config.local_width, config.local_width
        self.embed = nn.Sequential(
            nn.Linear(voxels, hidden, bias=False),
            TokenNorm(config.norm, hidden),
            nn.ReLU(),
        )
        self.position = nn.Parameter(torch.randn(1, cells, hidden) * 0.02)
        self.place = nn.Sequential(nn.Linear(hidden, width, bias=False), TokenNorm(config.norm, width), nn.ReLU())
        self.mix = nn.Conv3d(width, width, 3, stride=config.stride, padding=1, bias=False)
        self.mix_norm = TokenNorm(config.norm, width)
        self.local = nn.Sequential(
            nn.Linear(width, config.local_width, bias=False), TokenNorm(config.norm, config.local_width)
        )

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        tokens: Tensor = self.place(self.embed(self._patches(image)) + self.position)
        local: Tensor = self.local(tokens)
        mixed: Tensor = self.mix(_to_map(tokens, self.shape))
        cells = F.relu(self.mix_norm(to_cells(mixed))).view(mixed.shape[0], *mixed.shape[2:], -1)
        regions = [cells[:, deep, high, wide].flatten(1, 3) for deep, high, wide in self.regions]
        pooled = [*(region.mean(1) for region in regions), *(region.amax(1) for region in regions), local.amax(1)]
        return Features(torch.cat(pooled, 1), local if patches else None)

    def _patches(self, image: Tensor) -> Tensor:
        """Return the voxels of each patch [B, P, C * pd * ph * pw]: no convolution, whose kernels are slow on a CPU."""
        batch, channels = image.shape[:2]
        (depth, height, width), (rows, lines, columns) = self.config.patch, self.shape
        split = image.reshape(batch, channels, rows, depth, lines, height, columns, width)
        return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        return [[self.embed, self.position], [self.place], [self.mix, self.mix_norm]]


def _to_map(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Return cells [B, P, C] as a map [B, C, D, H, W]."""
    return cells.transpose(1, 2).reshape(cells.shape[0], -1, *shape)
