"""Encoders of MONAI by name: SwinUNETR's, without its decoder, and the 3-D ViT, under the names that MONAI's files have.

Of a file that holds a whole SwinUNETR (VoCo, SuPreM) the part under `swinViT.` is taken; `encoder*`, `decoder*` and `out`
are listed as unexpected.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlp.batch import Grid
from vlp.core.config import ConfigError, config
from vlp.core.errors import first_line
from vlp.modalities.volume.spec import VolumeSpec

from ..base import Features, TowerConfig, image_towers
from ..patch_grid import trace_tower
from .base import VolumeTower, recompute, require_channels, require_whole_patches, run_on_meta, to_cells, to_channels

SWIN: dict[str, Any] = {
    "embed_dim": 48,
    "window_size": (7, 7, 7),
    "patch_size": (2, 2, 2),
    "depths": (2, 2, 2, 2),
    "num_heads": (3, 6, 12, 24),
}
VIT: dict[str, Any] = {
    "patch_size": (16, 16, 16),
    "hidden_size": 768,
    "mlp_dim": 3072,
    "num_layers": 12,
    "num_heads": 12,
}
"""MONAI's own settings of a SwinUNETR, in the words of its encoder, and of a ViT."""


@config
class MonaiConfig(TowerConfig):
    """`name`: `swin_unetr` or `vit`; `options` for MONAI's constructor of SwinTransformer (`embed_dim`: feature_size) or ViT.

    `channels` of its input, to which a single window is repeated; as many as windows unless given. `stage`: which of
    SwinUNETR's five maps the cells are taken from, counted from 0 (stride 2); the last unless given. `pretrained_grid`: as
    of `vit3d`.
    """

    name: Literal["swin_unetr", "vit"] = "swin_unetr"
    options: dict[str, Any] = field(default_factory=dict)
    channels: int | None = None
    stage: Literal[0, 1, 2, 3, 4] = 4
    pretrained_grid: tuple[int, int, int] | None = None


@image_towers.register("monai")
class MonaiTower(VolumeTower):
    """An encoder of MONAI: `pooled` is the mean over its last map."""

    Config = MonaiConfig
    config: MonaiConfig

    def __init__(self, config: MonaiConfig, spec: VolumeSpec) -> None:
        super().__init__()
        self.config, self.channels, self.pretrained_grid = config, spec.channels, config.pretrained_grid
        self.inputs = config.channels or spec.channels
        require_channels(spec, self.inputs)
        self.is_swin = config.name == "swin_unetr"
        self.recomputes = False
        options = {**(SWIN if self.is_swin else VIT), **config.options}
        if self.is_swin:
            require_whole_patches(
                spec, tuple(16 * side for side in options["patch_size"]), "the strides of a SwinUNETR"
            )
            self.model: Any = _create("SwinTransformer", {"in_chans": self.inputs, **options})

            def run(volume: Tensor) -> tuple[tuple[int, ...], tuple[int, int]]:
                maps = run_on_meta(self.model, volume)
                return tuple(maps[config.stage].shape[2:]), (maps[-1].shape[1], maps[config.stage].shape[1])

            blank = torch.zeros(1, self.inputs, *spec.size, device="meta")
            self.grid, (self.width, self.patch_width) = trace_tower(self.model, run, blank, "MONAI's SwinUNETR")
        else:
            patch = tuple(options["patch_size"])
            shape = require_whole_patches(spec, patch, "model.image.options.patch_size")
            self.model = _create("ViT", {"in_channels": self.inputs, "img_size": spec.size, **options})
            for block in self.model.blocks:
                block.norm_cross_attn = nn.Identity()  # made even where nothing attends across
            self.grid = Grid(shape, tuple(map(float, patch)), tuple(side / 2 for side in patch))
            self.width = self.patch_width = options["hidden_size"]

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        volume = to_channels(image, self.inputs)
        if self.is_swin:
            maps = self.model(volume)
            pooled, cells = maps[-1].mean((2, 3, 4)), to_cells(maps[self.config.stage])
        else:
            cells = self.model.patch_embedding(volume)
            for block in self.model.blocks:
                cells = recompute(block, cells) if self.recomputes else block(cells)
            cells = self.model.norm(cells)
            pooled = cells.mean(1)
        return Features(pooled, cells if patches else None)

    def checkpoint_activations(self) -> None:
        self.recomputes = True
        for module in self.model.modules():
            if hasattr(module, "use_checkpoint"):
                module.use_checkpoint = True

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        if not self.is_swin:
            return [[self.model.patch_embedding], *([block] for block in self.model.blocks)]
        layers = ([f"layers{stage}c", f"layers{stage}"] for stage in range(1, 5))
        found = ([getattr(self.model, name) for name in names if hasattr(self.model, name)] for names in layers)
        return [[self.model.patch_embed], *found]


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    """Return MONAI's random model; raises ConfigError without MONAI, or where it does not take the options."""
    try:
        from monai.networks import nets
        from monai.networks.nets.swin_unetr import SwinTransformer
    except ImportError:
        raise ConfigError("model.image.kind monai needs MONAI: install vlp with the extra `volume`") from None
    builder: Any = SwinTransformer if name == "SwinTransformer" else nets.ViT
    try:
        model: nn.Module = builder(spatial_dims=3, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"model.image.options: MONAI's {name} does not take them: {first_line(error)}") from None
    return model
