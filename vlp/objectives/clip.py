"""CLIP: the symmetric InfoNCE with a learned scale.

Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021 (arXiv 2103.00020).
"""

from __future__ import annotations

import math

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config

from .base import Objective, Scale, as_scalar, l2_normalize, objectives
from .functional.info_nce import info_nce
from .functional.positives import Positives, RankRows, needs_of, relation


def clip_loss(output: ModelOutput, batch: Batch, positives: Positives, *, even: bool) -> Losses:
    """Return `½ [CE_rows(s S) + CE_rows((s S)^T)]` over the batch of all ranks, S cosines, s the output's logit_scale."""
    rows = RankRows.of(batch, even=even)
    image, text, scale = l2_normalize(output.image), l2_normalize(output.text), as_scalar(output.logit_scale)
    to_text, to_image = info_nce(image, text, scale, rows, relation(positives, batch, rows))
    return Losses((to_text + to_image) / 2, {"image_to_text": to_text, "text_to_image": to_image})


@config
class ClipConfig:
    scale: Scale = 1 / 0.07
    positives: Positives = "diagonal"


@objectives.register("clip")
class Clip(Objective[ClipConfig]):
    """`L = ½ [CE_rows(s S) + CE_rows((s S)^T)]`: cosines S times a learned scale s, which starts at 1 / 0.07.

    With several processes this is open_clip's loss with local_loss and gather_with_grad, the only ones of its modes whose
    gradients equal one process's.
    """

    def __init__(self, config: ClipConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.needs = frozenset({"logit_scale"}) | needs_of(config.positives)
        self.scale_init = (math.log(config.scale), None)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        return clip_loss(output, batch, self.config.positives, even=self.training)
