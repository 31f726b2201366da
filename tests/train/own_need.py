"""A need of one's own, `tests.train.own_need:Length`, and an objective that reads it, `tests.train.own_need:ByLength`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config
from vlp.needs.base import Features, Model, Need, Rows
from vlp.objectives import Objective


class Length(Need):
    """`Batch.extras["length"]`: characters of each text; `ModelOutput.extras["length"]` [B, D]: their mean patch."""

    key = "length"
    hint = "every sample has one"
    uses = frozenset({"patch_head", "patches"})

    def collate(self, rows: Rows) -> Tensor:
        return torch.tensor([float(len(shown.text)) for shown in rows.shown])

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        assert features.patches is not None
        output.extras[self.key] = features.patches.mean(1)


@config
class ByLengthConfig:
    unit: float = 100.0


class ByLength(Objective[ByLengthConfig]):
    """The length of the text, from the mean patch."""

    needs = frozenset({"tests.train.own_need:Length"})
    batch_coupled = False

    def __init__(self, config: ByLengthConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.read = nn.Linear(dim, 1)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        predicted = self.read(output.extras["length"]).squeeze(1)
        return Losses(F.mse_loss(predicted, batch.extras["length"].to(predicted) / self.config.unit))
