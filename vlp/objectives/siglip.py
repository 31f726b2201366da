"""SigLIP: every image-text pair is a yes-or-no question of its own.

Zhai, Mustafa, Kolesnikov, Beyer, *Sigmoid Loss for Language Image Pre-Training*, ICCV 2023 (arXiv 2303.15343).
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import ConfigError, config

from .base import Objective, Scale, as_scalar, l2_normalize, objectives
from .functional.info_nce import is_small
from .functional.positives import PositiveRelation, Positives, RankRows, needs_of, relation
from .functional.tiled import SigmoidSum

Exchange = Literal["gather", "ring"]


def sigmoid_sum(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, related: PositiveRelation | None, rows: RankRows
) -> Tensor:
    """Return `-sum log sigmoid(y z)` of own images [b, D] with the texts of all ranks, `z = scale * cosine + bias`."""
    texts = rows.gather(text)
    if not is_small(image.shape[0], texts.shape[0]):
        return cast(Tensor, SigmoidSum.apply(image, texts, scale, bias, related, rows.start))
    z = scale * (image @ texts.T) + bias
    positive = rows.diagonal(z) if related is None else related.whole(z) > 0
    return -F.logsigmoid(torch.where(positive, z, -z)).sum()


def ring_sigmoid_sum(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return `sigmoid_sum`'s value while holding one foreign block of texts at a time; equal rows on all ranks.

    Texts go round the ring of ranks, one hop a turn; every pair with a foreign block is a negative.
    """
    total: Tensor = SigmoidSum.apply(image, text, scale, bias, None, 0)
    for _ in range(distributed.world() - 1):
        text = distributed.shift(text)
        total = total + SigmoidSum.apply(image, text, scale, bias, None, -1)
    return total


def siglip_loss(output: ModelOutput, batch: Batch, positives: Positives, exchange: Exchange, *, even: bool) -> Losses:
    """Return SigLIP's loss over the batch of all ranks; see `SigLip`."""
    rows = RankRows.of(batch, even=even)
    image, text = l2_normalize(output.image), l2_normalize(output.text)
    scale, bias = as_scalar(output.logit_scale), as_scalar(output.logit_bias)
    if exchange == "ring" and rows.even:
        return Losses(rows.share(ring_sigmoid_sum(image, text, scale, bias)))
    return Losses(rows.share(sigmoid_sum(image, text, scale, bias, relation(positives, batch, rows), rows)))


@config
class SigLipConfig:
    scale: Scale = 10.0
    bias: float = -10.0
    positives: Positives = "diagonal"
    exchange: Exchange = "gather"


@objectives.register("siglip")
class SigLip(Objective[SigLipConfig]):
    """`L = -(1/N) sum_ij log sigmoid(y_ij (s S_ij + b))`, y = 1 for positives and -1 otherwise; N images, not N² pairs.

    Scale s starts at 10 and bias b at -10, the paper's for batches of ten thousands; for small ones the log odds of a
    positive, -ln(N - 1), is a better start (open_clip issue 650). With `exchange: ring` texts go round the ranks one
    block at a time instead of being gathered; `positives` must then be diagonal.
    """

    def __init__(self, config: SigLipConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.exchange == "ring" and config.positives != "diagonal":
            raise ConfigError(
                f"positives: {config.positives} needs to know the texts of all ranks: use exchange: gather, not ring"
            )
        self.needs = frozenset({"logit_scale", "logit_bias"}) | needs_of(config.positives)
        self.scale_init = (math.log(config.scale), config.bias)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        return siglip_loss(output, batch, config.positives, config.exchange, even=self.training)
