"""An objective of one's own in a module of one's own, named in a recipe as `tests.train.own_objective:Margin`."""

from __future__ import annotations

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config
from vlp.objectives import Objective
from vlp.objectives.base import l2_normalize
from vlp.objectives.functional.positives import RankRows


@config
class MarginConfig:
    margin: float = 0.2


class Margin(Objective[MarginConfig]):
    """Wrong texts must stay a margin further away than the right one."""

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        rows = RankRows.of(batch, even=self.training)
        image, text = l2_normalize(output.image), l2_normalize(output.text)
        apart = self.config.margin + image @ rows.gather(text).T - (image * text).sum(1, keepdim=True)
        return Losses(rows.share(apart.clamp(min=0).sum()))
