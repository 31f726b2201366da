"""Vision transformers on volumes: timm's blocks by name, patches of their own size in depth, positions on three axes."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from vlp.batch import Grid
from vlp.core.config import ConfigError, config
from vlp.modalities.volume.spec import VolumeSpec

from ..base import Features, TowerConfig, image_towers
from ..timm import TimmBased, TimmConfig, create
from .base import VolumeTower, require_whole_patches, to_cells


@config
class Vit3dConfig(TowerConfig):
    """`name` of a timm vision transformer, `options` for its constructor; `patch` in voxels: depth, height, width.

    Weights of 2-D models fit: patch kernels are repeated along depth, colours summed and shared out among the windows,
    positions repeated for each plane with a term of its own. `pretrained_grid`: the cells (depth, height, width) of 3-D
    weights whose table of positions is of another grid, where that is no cube.
    """

    name: str = "vit_small_patch16_224"
    patch: tuple[int, int, int] = (8, 16, 16)
    options: dict[str, Any] = field(default_factory=dict)
    pretrained_grid: tuple[int, int, int] | None = None


class PatchEmbed(nn.Module):
    """Volumes [B, C, D, H, W] -> patches [B, P, width], under timm's name."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int], bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, patch, patch, bias=bias)

    def forward(self, volume: Tensor) -> Tensor:
        return to_cells(self.proj(volume))


@image_towers.register("vit3d")
class Vit3dTower(TimmBased, VolumeTower):
    """A timm vision transformer whose patches are boxes: `pooled` is what its classifier would see."""

    Config = Vit3dConfig
    config: Vit3dConfig

    def __init__(self, config: Vit3dConfig, spec: VolumeSpec) -> None:
        super().__init__()
        shape = require_whole_patches(spec, config.patch, "model.image.patch")
        self.config, self.channels, self.pretrained_grid = config, spec.channels, config.pretrained_grid
        self.grid = Grid(shape, tuple(map(float, config.patch)), tuple(side / 2 for side in config.patch))
        self.model = _create(config, spec.channels, self.grid.cells)
        self.prefix = int(self.model.num_prefix_tokens)
        self.width = self.patch_width = int(self.model.num_features)
        self.watch_attention()

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        final = self.model.forward_features(image)
        pooled: Tensor = self.model.forward_head(final, pre_logits=True)
        attention, self.seen = self.seen, None
        return Features(pooled, final[:, self.prefix :], attention) if patches else Features(pooled)


def _create(config: Vit3dConfig, channels: int, cells: int) -> Any:
    """Return the timm model with a patch embedding and a table of positions for a volume; raises ConfigError."""
    from timm.models.vision_transformer import VisionTransformer

    flat = TimmConfig(name=config.name, options=config.options, channels=channels)
    model: Any = create(flat, 224)
    plain = type(model) is VisionTransformer and model.pos_embed is not None and not model.dynamic_img_size
    if not plain or not isinstance(model.patch_embed.norm, nn.Identity):
        raise ConfigError(
            f"model.image.name: {config.name!r} is no plain vision transformer with a table of positions, which is what a 3-D "
            "one is made of; use one such as vit_base_patch16_224"
        )
    special = model.pos_embed.shape[1] - model.patch_embed.num_patches
    width = model.embed_dim
    bias = model.patch_embed.proj.bias is not None
    model.patch_embed = PatchEmbed(channels, width, config.patch, bias)
    model.pos_embed = nn.Parameter(torch.empty(1, special + cells, width))
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    return model
