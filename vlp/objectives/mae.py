"""Masked image modelling as a companion loss: the pixels of blanked-out cells from the cells that are left.

He et al., *Masked Autoencoders Are Scalable Vision Learners*, CVPR 2022; for chest radiographs Xiao et al., *Delving into
Masked Autoencoders for Multi-Label Thorax Disease Classification*, WACV 2023.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import ConfigError, config

from .base import Count, Objective, mean_over_ranks, objectives


@config
class MaeConfig:
    patch: Count = 16
    channels: Count = 3
    width: int = 256
    depth: Annotated[int, Field(ge=0)] = 2
    heads: Count = 4
    normalise_pixels: bool = False


@objectives.register("mae")
class Mae(Objective[MaeConfig]):
    """`L = mean over masked cells of mean_pixels (predicted - true)²`, pixels in 0..1.

    The model encodes the image once more with cells blanked out (`ModelOutput.masked_patches`, `patch_mask`), as in SimMIM:
    unlike MAE's encoder it also sees the blank cells, which lets any image tower do it. A small transformer, owned here,
    predicts `patch` x `patch` x `channels` pixels per cell; an image of another size than grid x patch is resampled by
    area. `normalise_pixels` compares with each cell's own mean and (unbiased) deviation taken out, off by default as in the
    chest radiograph recipe.
    """

    needs = frozenset({"masked_patches"})
    batch_coupled = False
    needs_text = False

    def __init__(self, config: MaeConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.width % (4 * config.heads):
            raise ConfigError(f"width: must be a multiple of 4 x heads = {4 * config.heads}, found {config.width}")
        self.enter = nn.Linear(dim, config.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width, config.heads, 4 * config.width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.patch**2 * config.channels)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        patches, mask, grid = output.masked_patches, output.patch_mask, output.grid
        if patches is None or mask is None or grid is None:
            raise ConfigError(
                f"objective {self.name!r} needs ModelOutput.masked_patches, patch_mask and grid: "
                "choose an image tower with a feature map, built with this objective's needs"
            )
        if batch.image.shape[1] != config.channels:
            raise ConfigError(
                f"objective {self.name!r}: channels: images have {batch.image.shape[1]}, found {config.channels}"
            )
        height, width = grid.shape
        hidden = self.enter(patches) + positions(height, width, config.width, patches.device).to(patches)
        for block in self.blocks:
            hidden = block(hidden)
        predicted = self.leave(self.norm(hidden))
        target = cells(batch.image, height, width, config.patch).to(predicted.dtype)
        return Losses(masked_error(predicted, target, mask, config.normalise_pixels))


def masked_error(predicted: Tensor, target: Tensor, mask: Tensor, normalise: bool) -> Tensor:
    """Return this rank's share of the mean over masked cells of their mean squared error; 0 where nothing is masked.

    `predicted`, `target` [B, P, V]; `mask` [B, P], non-zero on cells to be predicted.
    """
    if normalise:
        variance, mean = torch.var_mean(target, dim=2, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return mean_over_ranks((predicted - target).square().mean(2), mask != 0)


def cells(image: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Return [B, height * width, patch * patch * C] pixel values of the grid's cells from images [B, C, H, W]."""
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image
    if tuple(pixels.shape[2:]) != (height * patch, width * patch):
        pixels = F.interpolate(pixels, (height * patch, width * patch), mode="area")
    count, channels = pixels.shape[:2]
    split = pixels.reshape(count, channels, height, patch, width, patch)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(count, height * width, -1)


def positions(height: int, width: int, size: int, device: torch.device | None = None) -> Tensor:
    """Return [height * width, size]: sines and cosines of the cells' rows and columns, half of the values each."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(size // 4, device=device) / (size // 4))
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * rates
    columns = torch.arange(width, dtype=torch.float32, device=device)[:, None] * rates
    along_rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)
    along_columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([along_rows, along_columns], 2).reshape(height * width, size)
