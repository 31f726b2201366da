"""An objective of one's own in a module of one's own, named in a recipe as `train.own_objective:Margin`."""

from __future__ import annotations

from typing import Any

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config
from vlp.objectives import Objective
from vlp.objectives.base import unit
from vlp.objectives.functional.positives import Rows


class Margin(Objective):
    """Wrong texts must stay a margin further away than the right one."""

    @config
    class Config:
        margin: float = 0.2

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        settings: Any = self.config
        rows = Rows.of(batch, even=self.training)
        image, text = unit(output.image), unit(output.text)
        apart = settings.margin + image @ rows.gather(text).T - (image * text).sum(1, keepdim=True)
        return Losses(rows.share(apart.clamp(min=0).sum()))
