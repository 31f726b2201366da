"""Any tower of images, on each slice of a volume: all weights of 2-D models serve, and depth is a matter of pooling.

Slices are encoded in chunks; with `checkpointing` one chunk's activations are kept at a time. At the start a volume of one
slice has the features that the tower of images gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from vlp.batch import Grid
from vlp.core.config import ConfigError, config
from vlp.core.declared import Kinds
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.volume.spec import VolumeSpec

from ..base import Features, ImageTower, Tower, TowerConfig, build_image_tower, image_towers
from .base import VolumeTower, recompute, require_channels

WAVELENGTHS = 16
SHORTEST, LONGEST = 20.0, 2000.0
"""Of the sines and cosines that tell a slice's place, in millimetres: from a vertebra to more than a body."""


@config
class SlicesConfig(TowerConfig):
    """`tower`: a tower of images, `{kind: ..., pretrained: ..., ...}`; windows are its channels, a single one is repeated.

    `channels: neighbours` gives it a slice with the one below and the one above instead (of one window). `pool`: `attention`
    of `queries` learned queries, whose results stand side by side, or `mean`. `chunk`: how many slices of each volume go
    through the tower together (a tower with batch normalisation takes its statistics of those). `turned`: by 180 degrees, as
    slices are shown (front up, the patient's right on the left), for weights that were trained on slices as shown.
    """

    tower: Annotated[dict[str, Any], Kinds("vlp.models.towers.base:image_towers")]
    channels: Literal["windows", "neighbours"] = "windows"
    pool: Literal["attention", "mean"] = "attention"
    queries: int = 4
    chunk: int = 16
    turned: bool = False


def places(spec: VolumeSpec) -> Tensor:
    """Return the sines and cosines [D, 2 * WAVELENGTHS] of each slice's place, in millimetres from the volume's middle."""
    depth = spec.size[0]
    place = (torch.arange(depth) + 0.5 - depth / 2) * spec.spacing[0]
    lengths = SHORTEST * (LONGEST / SHORTEST) ** (torch.arange(WAVELENGTHS) / (WAVELENGTHS - 1))
    angle = 2 * math.pi * place.unsqueeze(1) / lengths
    return torch.cat([angle.sin(), angle.cos()], 1)


class DepthEmbedding(nn.Module):
    """Adds to features [B, D, ..., C] what depends on the place of their slice; nothing at the start."""

    where: Tensor

    def __init__(self, spec: VolumeSpec, width: int) -> None:
        super().__init__()
        self.register_buffer("where", places(spec), persistent=False)
        self.project = nn.Linear(2 * WAVELENGTHS, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.project(self.where)
        if features.shape[1] != len(added):  # a picture has no depth; in the graph, for data parallelism
            added = 0 * added[:1]
        return features + added.view(len(added), *[1] * (features.dim() - 3), -1)


class SlicePool(nn.Module):
    """Slices [B, D, C] -> pooled [B, K * C], K queries' weighted means beside each other, and their mean weights [B, D]."""

    def __init__(self, spec: VolumeSpec, width: int, queries: int) -> None:
        super().__init__()
        self.place = DepthEmbedding(spec, width)
        self.norm, self.key = nn.LayerNorm(width), nn.Linear(width, width)
        self.query = nn.Parameter(torch.randn(queries, width))

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        slices = self.place(slices)
        logits = self.key(self.norm(slices)) @ self.query.T / slices.shape[-1] ** 0.5
        weights = logits.float().softmax(1).to(slices.dtype)
        return (weights.transpose(1, 2) @ slices).flatten(1), weights.mean(2)


@image_towers.register("slices")
class SlicesTower(VolumeTower):
    """[B, C, D, H, W] -> pooled [B, queries * width of the tower], cells of each slice in turn."""

    Config = SlicesConfig
    config: SlicesConfig
    takes_both = True

    def __init__(self, config: SlicesConfig, spec: VolumeSpec) -> None:
        super().__init__()
        if spec.size[1] != spec.size[2]:
            side = max(spec.size[1:])
            raise ConfigError(
                f"model.image: towers of images take squares, volume.size is {list(spec.size)}; set it to "
                f"{[spec.size[0], side, side]}: what is beyond the volume is filled with air"
            )
        if min(config.queries, config.chunk) < 1:
            raise ConfigError(f"model.image: queries is {config.queries}, chunk {config.chunk}; both are at least 1")
        self.by_neighbours = config.channels == "neighbours"
        if self.by_neighbours and spec.channels != 1:
            raise ConfigError(
                f"model.image.channels: neighbours are of one window, volume.windows makes {spec.channels}"
            )
        self.config, self.spec, self.channels = config, spec, spec.channels
        image = ImageSpec(size=spec.size[1], channels=3 if self.by_neighbours else spec.channels)  # type: ignore[arg-type]
        self.tower: ImageTower = build_image_tower(config.tower, image, "model.image.tower")
        require_channels(spec, self.tower.channels, "model.image.tower")
        if self.by_neighbours and self.tower.channels != 3:
            raise ConfigError(f"model.image.channels: neighbours are three, the tower takes {self.tower.channels}")
        self.pool = SlicePool(spec, self.tower.width, config.queries) if config.pool == "attention" else None
        self.copies = config.queries if self.pool is not None else 1
        self.width = self.copies * self.tower.width
        self.recomputes = False
        self._follow()
        self.local: DepthEmbedding | None = DepthEmbedding(spec, self.patch_width)

    def _follow(self) -> None:
        """Take over what the tower of images says of its cells."""
        flat = self.tower.grid
        offset, size = flat.offset, self.spec.size[1]
        if self.config.turned:  # the last cell comes first, as far from the end as it was from the beginning
            ends = zip(flat.shape, flat.stride, flat.offset, strict=True)
            offset = tuple(size - start - stride * (count - 1) for count, stride, start in ends)
        self.grid = Grid((self.spec.size[0], *flat.shape), (1.0, *flat.stride), (0.5, *offset))
        self.patch_width = self.tower.patch_width

    def grid_of(self, size: Sequence[int]) -> Grid:
        if not self._is_picture(size):
            return self.grid
        flat = self.tower.grid
        return Grid((1, *flat.shape), (1.0, *flat.stride), (0.5, *flat.offset))

    def _is_picture(self, size: Sequence[int]) -> bool:
        return size[0] == 1 != self.spec.size[0]

    def _turns(self, image: Tensor) -> bool:
        return self.config.turned and not self._is_picture(image.shape[2:])  # pictures lie as they are shown

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        slices = self._slices(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (image.requires_grad or not self.tower.is_frozen)):
            parts = [
                self._encode(part, patches, self._turns(image)) for part in torch.split(slices, self.config.chunk, 1)
            ]
        pooled, cells, attention = (
            None if found[0] is None else torch.cat([part for part in found if part is not None], 1)
            for found in zip(*parts, strict=True)
        )
        assert pooled is not None
        whole, weights = self.pool(pooled) if self.pool is not None else (pooled.mean(1), None)
        if not patches or cells is None:
            return Features(whole)
        cells = cells if self.local is None else self.local(cells)
        if attention is not None:
            share = pooled.new_full(pooled.shape[:2], 1 / pooled.shape[1]) if weights is None else weights.detach()
            attention = (attention * share.unsqueeze(-1)).flatten(1)
        return Features(whole, cells.flatten(1, 2), attention)

    def _slices(self, image: Tensor) -> Tensor:
        """Return the slices [B, D, channels of the tower, H, W]."""
        slices = image.transpose(1, 2).flip(3, 4) if self._turns(image) else image.transpose(1, 2)
        if self.by_neighbours:
            below, above = slices[:, :1], slices[:, -1:]
            return torch.cat([torch.cat([below, slices[:, :-1]], 1), slices, torch.cat([slices[:, 1:], above], 1)], 2)
        return slices.expand(-1, -1, self.tower.channels, -1, -1) if slices.shape[2] == 1 else slices

    def _encode(self, slices: Tensor, patches: bool, turned: bool) -> tuple[Tensor | None, ...]:
        """Return a chunk's features [B, n, C], cells [B, n, P, C] and attention [B, n, P]."""
        flat = slices.flatten(0, 1)
        found: Features = recompute(self.tower, flat, patches) if self.recomputes else self.tower(flat, patches)
        if turned:  # rows and columns from the end: all cells in the reverse order
            cells, attention = (None if part is None else part.flip(1) for part in found[1:])
            found = Features(found.pooled, cells, attention)
        return tuple(None if part is None else part.reshape(*slices.shape[:2], *part.shape[1:]) for part in found)

    def inner_towers(self) -> dict[str, Tower]:
        return {"tower": self.tower}

    def apply_freezing(self, where: str) -> None:
        self.tower.apply_freezing(f"{where}.tower")
        super().apply_freezing(where)

    def checkpoint_activations(self) -> None:
        self.recomputes = True

    def disable_attention_capture(self) -> None:
        self.tower.disable_attention_capture()

    def drop_local_branch(self) -> None:
        self.tower.drop_local_branch()
        self.local = None
        self._follow()

    def pool_projection(self, patch_tokens: Tensor) -> Tensor | None:
        found = self.tower.pool_projection(patch_tokens)
        return None if found is None else torch.cat([found] * self.copies, -1)

    def to_config(self) -> dict[str, Any]:
        return {**super().to_config(), "tower": self.tower.to_config()}

    def stages(self) -> Any:
        return self.tower.stages()
