"""An encoder of a further modality, beside image and text: its tower and its head, into the joint space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlp.core.config import ConfigError

from .heads import HeadConfig, build_head
from .towers.base import Tower


class Encoder(nn.Module):
    """A tower and its head: a processor's batch to embeddings [B, D], unnormalised."""

    def __init__(self, tower: Tower, dim: int, where: str) -> None:
        super().__init__()
        if tower.config.pretrained:
            raise ConfigError(f"{where}.pretrained: only image and text towers start from weights of their own")
        self.tower = tower
        self.head = build_head(HeadConfig(), tower.width, dim, where)

    def forward(self, inputs: Any) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.tower.is_frozen):
            features = self.tower(inputs)
        embedded: Tensor = self.head(features.pooled)
        return embedded
