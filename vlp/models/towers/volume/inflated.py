"""ResNets in 3-D under torchvision's names: started from 2-D weights by inflation, or from published 3-D ones.

The layout is that of the I3ResNet-152 of Merlin and Astra: a stem of 3 x 7 x 7 with stride 1 x 2 x 2, max pooling of 3 with
stride 2, the stride of a bottleneck in its second convolution; depth shrinks by 16, height and width by 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.core.config import ConfigError, config
from vlp.modalities.volume.spec import VolumeSpec

from ..base import Features, TowerConfig, image_towers
from ..patch_grid import trace_tower
from .base import VolumeTower, recompute, require_channels, run_on_meta, to_cells, to_channels

BLOCKS = {
    "resnet18": (1, (2, 2, 2, 2)),
    "resnet34": (1, (3, 4, 6, 3)),
    "resnet50": (4, (3, 4, 6, 3)),
    "resnet101": (4, (3, 4, 23, 3)),
    "resnet152": (4, (3, 8, 36, 3)),
}
"""How much wider a block's output is than its inside (4: a bottleneck), and the blocks of the four stages."""


@config
class InflatedConfig(TowerConfig):
    """`name`: resnet18, 34, 50, 101 or 152; `channels` of its input, 3 unless given, to which a single window is repeated.

    `inflate`: where a 2-D kernel goes in depth, into the `centre` plane (Merlin: the 2-D response on what is constant along
    depth, at the ends too) or to all planes as the `mean` (I3D). `axes`: the order in which the network takes them; 3-D
    weights want the one they were trained in said (Merlin's and Astra's: zxy). `stage`: which of the four the cells are
    taken from; the last unless given.
    """

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet18"
    channels: int = 3
    inflate: Literal["centre", "mean"] = "centre"
    axes: Literal["zyx", "zxy"] | None = None
    stage: Literal[1, 2, 3, 4] = 4


class Block(nn.Module):
    """A residual block: two 3^3 convolutions, or three of 1, 3 and 1 where `expansion` is 4."""

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        out = width * expansion
        kernels = [(1, 1), (3, stride), (1, 1)] if expansion > 1 else [(3, stride), (3, 1)]
        self.count = len(kernels)
        for index, (kernel, step) in enumerate(kernels, 1):
            wide = out if index == self.count else width
            conv = nn.Conv3d(channels if index == 1 else width, wide, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", nn.BatchNorm3d(wide))
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out))

    def forward(self, features: Tensor) -> Tensor:
        inner = features
        for index in range(1, self.count + 1):
            inner = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(inner))
            inner = F.relu(inner) if index < self.count else inner
        kept = features if self.downsample is None else self.downsample(features)
        return F.relu(inner + kept)


class ResNet3d(nn.Module):
    """[B, C, Z, H, W] -> the maps of the four stages."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        expansion, counts = BLOCKS[name]
        self.conv1 = nn.Conv3d(channels, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.widths: list[int] = []
        before = 64
        for stage, count in enumerate(counts):
            width = 64 << stage
            blocks = [Block(before, width, expansion, 1 if stage == 0 else 2)]
            before = width * expansion
            blocks += [Block(before, width, expansion, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.widths.append(before)
        self.recomputes = False
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, volume: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(F.relu(self.bn1(self.conv1(volume))))
        return pooled

    def forward(self, volume: Tensor) -> list[Tensor]:
        features = recompute(self.stem, volume) if self.recomputes else self.stem(volume)
        maps = []
        for stage in range(1, 5):
            for block in self.get_submodule(f"layer{stage}").children():
                features = recompute(block, features) if self.recomputes else block(features)
            maps.append(features)
        return maps


@image_towers.register("inflated")
class InflatedTower(VolumeTower):
    """A 3-D ResNet: `pooled` is the mean over its last map."""

    Config = InflatedConfig
    config: InflatedConfig

    def __init__(self, config: InflatedConfig, spec: VolumeSpec) -> None:
        super().__init__()
        require_channels(spec, config.channels)
        self.config, self.channels, self.inflation = config, spec.channels, config.inflate
        self.model = ResNet3d(config.name, config.channels)
        self.width, self.patch_width = self.model.widths[-1], self.model.widths[config.stage - 1]

        def run(volume: Tensor) -> tuple[tuple[int, ...], None]:
            return tuple(run_on_meta(self.model, volume)[config.stage - 1].shape[2:]), None

        blank = torch.zeros(1, config.channels, *spec.size, device="meta")
        self.grid, _ = trace_tower(self.model, run, blank, f"a {config.name}")

    def forward(self, image: Tensor, patches: bool = False) -> Features:
        swaps = self.config.axes == "zxy"
        volume = to_channels(image.transpose(3, 4) if swaps else image, self.config.channels)
        maps = self.model(volume)
        pooled = maps[-1].mean((2, 3, 4))
        if not patches:
            return Features(pooled)
        cells = maps[self.config.stage - 1]
        return Features(pooled, to_cells(cells.transpose(3, 4) if swaps else cells))

    def check_weights(self, tensors: Mapping[str, Tensor], source: str) -> None:
        own = {_block_of(name) for name in self.model.state_dict()}
        deeper = sorted({_block_of(name) for name in tensors} - own)
        if deeper:
            raise ConfigError(
                f"{source} holds a deeper network than {self.config.name}, with {', '.join(deeper[:3])}: set model.image.name"
            )
        if self.config.axes is None and any(value.dim() == 5 for value in tensors.values()):
            raise ConfigError(
                f"{source} holds a 3-D network, and in another order of its axes it would load and be wrong by a little: say "
                "which one it was trained in, axes: zxy (Merlin, Astra) or axes: zyx"
            )

    def checkpoint_activations(self) -> None:
        self.model.recomputes = True

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        model = self.model
        parts = (("conv1", "bn1"), *((f"layer{stage}",) for stage in range(1, 5)))
        return [[model.get_submodule(name) for name in names] for names in parts]


def _block_of(name: str) -> str:
    """Return the block that a tensor belongs to (`layer3.22`), "" for one of none."""
    found = re.match(r"layer[1-4]\.\d+(?=\.)", name)
    return found.group() if found else ""
