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

from .base import Count, Objective, Positive, mean_over_ranks, objectives


@config
class MaeConfig:
    patch: Count | tuple[Count, Count, Count] = 16
    channels: Count = 3
    width: int = 256
    depth: Annotated[int, Field(ge=0)] = 2
    heads: Count = 4
    normalise_pixels: bool = False
    window: tuple[float, Positive] | None = None


@objectives.register("mae")
class Mae(Objective[MaeConfig]):
    """`L = mean over masked cells of mean_pixels (predicted - true)²`, pixels in 0..1.

    The model encodes the image once more with cells blanked out (`ModelOutput.masked_patches`, `patch_mask`), as in SimMIM:
    unlike MAE's encoder it also sees the blank cells, which lets any image tower do it. A small transformer, owned here,
    predicts `patch` x `patch` x `channels` pixels per cell; an image of another size than grid x patch is resampled by
    area. `normalise_pixels` compares with each cell's own mean and (unbiased) deviation taken out, off by default as in the
    chest radiograph recipe.

    Of a volume the voxels of a `patch` of three numbers are predicted, in one channel (`channels: 1`), in the `window` (level,
    width) that brings them to 0..1: `[0, 2000]` for a CT in HU, `[0.5, 1]` for an MR.
    """

    needs = frozenset({"masked_patches"})
    batch_coupled = False
    needs_text = False

    def __init__(self, config: MaeConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.width % (4 * config.heads):
            raise ConfigError(f"width: must be a multiple of 4 x heads = {4 * config.heads}, found {config.width}")
        self.patch = (config.patch, config.patch) if isinstance(config.patch, int) else config.patch
        self.enter = nn.Linear(dim, config.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width, config.heads, 4 * config.width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, math.prod(self.patch) * config.channels)

    def check_kinds(self, kinds: frozenset[str]) -> None:
        if len(kinds) > 1:
            raise ConfigError(
                f"volume.image: {self.name}'s patches are of images or of volumes, not of both; leave one of them out"
            )

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
        if len(self.patch) != len(grid.shape) or (config.window is None) is (len(grid.shape) == 3):
            raise ConfigError(
                f"objective {self.name!r}: patch, window: of images patch is one number and window is left out, of volumes "
                f"patch is three numbers and window is [level, width]; found {config.patch} and {config.window} on a grid of "
                f"{len(grid.shape)} axes"
            )
        hidden = self.enter(patches) + positions(grid.shape, config.width, patches.device).to(patches)
        for block in self.blocks:
            hidden = block(hidden)
        predicted = self.leave(self.norm(hidden))
        target = cells(windowed(batch.image, config.window), grid.shape, self.patch).to(predicted.dtype)
        return Losses(masked_error(predicted, target, mask, config.normalise_pixels))


def masked_error(predicted: Tensor, target: Tensor, mask: Tensor, normalise: bool) -> Tensor:
    """Return this rank's share of the mean over masked cells of their mean squared error; 0 where nothing is masked.

    `predicted`, `target` [B, P, V]; `mask` [B, P], non-zero on cells to be predicted.
    """
    if normalise:
        variance, mean = torch.var_mean(target, dim=2, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return mean_over_ranks((predicted - target).square().mean(2), mask != 0)


def windowed(image: Tensor, window: tuple[float, float] | None) -> Tensor:
    """Return values in 0..1: those of a window (level, width), or uint8 pixels over 255."""
    if window is not None:
        level, width = window
        return ((image - level) / width + 0.5).clamp(0, 1)
    return image.float() / 255 if image.dtype == torch.uint8 else image


def cells(image: Tensor, shape: tuple[int, ...], patch: tuple[int, ...]) -> Tensor:
    """Return [B, P, V] values of the cells of a grid of this shape from images [B, C, H, W] or volumes [B, C, D, H, W].

    V: the values of a patch, row by row, its channels innermost.
    """
    size = tuple(count * side for count, side in zip(shape, patch, strict=True))
    if tuple(image.shape[2:]) != size:
        image = F.interpolate(image, size, mode="area")
    split = image.reshape(*image.shape[:2], *(number for pair in zip(shape, patch, strict=True) for number in pair))
    axes = range(2, split.ndim)
    return split.permute(0, *axes[::2], *axes[1::2], 1).reshape(len(image), math.prod(shape), -1)


def positions(shape: tuple[int, ...], size: int, device: torch.device | None = None) -> Tensor:
    """Return [P, size]: sines and cosines of a grid's cells along each axis, an equal part of the values each, the rest 0."""
    part = size // (2 * len(shape))
    rates = torch.exp(-math.log(10000.0) * torch.arange(part, device=device) / part)
    found = torch.zeros((*shape, size), device=device)
    for axis, count in enumerate(shape):
        angles = torch.arange(count, dtype=torch.float32, device=device)[:, None] * rates
        along = torch.cat([angles.sin(), angles.cos()], 1)
        others = [1] * (len(shape) - 1 - axis)
        found[..., 2 * part * axis : 2 * part * (axis + 1)] = along.view(count, *others, 2 * part)
    return found.view(-1, size)
