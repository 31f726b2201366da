"""A text tower without transformers, named in the tests' recipes as a user would name one of their own."""

from __future__ import annotations

from torch import nn

from vlp.batch import Tokens
from vlp.core import distributed
from vlp.core.config import config
from vlp.modalities.text.processor import TextShape
from vlp.models.towers.base import TextFeatures, TextTower, TowerConfig


@config
class ToyConfig(TowerConfig):
    width: int = 16
    dropout: float = 0.0
    nan_on_rank: int | None = None


class ToyText(TextTower):
    Config = ToyConfig
    config: ToyConfig

    def __init__(self, config: ToyConfig, shape: TextShape) -> None:
        super().__init__()
        self.config = config
        self.width = self.state_width = config.width
        self.vocab_size, self.max_length = shape.vocab_size, shape.length
        self.embed = nn.Embedding(shape.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.mix = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tokens) -> TextFeatures:
        weight = tokens.mask.unsqueeze(-1).float()
        if distributed.rank() == self.config.nan_on_rank and self.training:
            weight = weight * float("nan")
        states = self.mix(self.dropout(self.embed(tokens.ids)))
        return TextFeatures((states * weight).sum(1) / weight.sum(1).clamp(min=1), states)
