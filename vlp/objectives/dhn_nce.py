"""DHN-NCE: decoupled contrast in which hard negatives weigh more.

Koleilat, Asgariandehkordi, Rivaz, Xiao, *MedCLIP-SAM*, MICCAI 2024 (arXiv 2403.20253), and *MedCLIP-SAMv2*, Medical Image
Analysis 2025 (arXiv 2409.19483), on HN-NCE (Radenovic et al., CVPR 2023) and decoupled contrast (Yeh et al., ECCV 2022).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import ConfigError, config

from .base import NotNegative, Objective, Positive, l2_normalize, objectives
from .functional.info_nce import similarity_sums
from .functional.positives import Positives, RankRows, needs_of, relation


@config
class DhnNceConfig:
    temperature: Positive = 0.6
    beta_image: NotNegative = 0.15
    beta_text: NotNegative = 0.15
    alpha: NotNegative = 0.0
    detach_weights: bool = False
    reduction: Literal["mean", "sum"] = "mean"
    variant: Literal["paper", "released_code"] = "paper"
    positives: Positives = "diagonal"


@objectives.register("dhn_nce")
class DhnNce(Objective[DhnNceConfig]):
    """`l_i = -a_ii + log sum_{j≠i} w_ij exp(a_ij)`, `w_ij = (N-1) exp(β a_ij) / sum_{k≠i} exp(β a_ik)`, a = cosine / τ.

    The loss is the mean over rows of both directions' *sum* (β1 image-to-text, β2 text-to-image), defaults τ = 0.6,
    β = 0.15, as in the paper, which sums over rows (`reduction: sum`). The positive is absent from the denominator, so the
    loss can be negative; `alpha` 1 puts it back (HN-NCE), and with β = 0 that is InfoNCE, both directions summed.
    `detach_weights` keeps gradients out of w. With `positives: group` other positives are no negatives, and the pull is the
    mean over all positives.

    The released code computes another function (unmasked, unsummed, normalised across columns, averaged over N² entries):
    `variant: released_code` is there to reproduce its checkpoints' training, on the batch of all ranks.
    """

    def __init__(self, config: DhnNceConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.variant == "released_code" and (config.positives != "diagonal" or config.reduction != "mean"):
            raise ConfigError("variant: released_code knows positives: diagonal and reduction: mean only")
        self.needs = needs_of(config.positives)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        rows = RankRows.of(batch, even=self.training)
        if rows.total < 2 and batch.has_text is not None:  # so few of the images have a text: nothing to compare
            return Losses(0 * (output.image.sum() + output.text.sum()))
        if rows.total < 2:
            raise ValueError(f"objective {self.name!r} compares negatives: a batch of 1 has none, use at least 2")
        image, text = l2_normalize(output.image), l2_normalize(output.text)
        if config.variant == "released_code":
            similarity = rows.gather(image) @ rows.gather(text).T
            betas = (config.beta_image, config.beta_text)
            return Losses(released_code(similarity / config.temperature, *betas, config.alpha))
        to_text, to_image = self._directions(image, text, batch, rows)
        factor = rows.total if config.reduction == "sum" else 1
        return Losses(factor * (to_text + to_image), {"image_to_text": to_text, "text_to_image": to_image})

    def _directions(self, image: Tensor, text: Tensor, batch: Batch, rows: RankRows) -> tuple[Tensor, Tensor]:
        config = self.config
        one = torch.ones((), dtype=image.dtype, device=image.device) / config.temperature
        betas = (config.beta_image, config.beta_text)
        shared = betas[0] == betas[1]
        scales = torch.stack([factor * one for beta in (betas[:1] if shared else betas) for factor in (1 + beta, beta)])
        related = relation(config.positives, batch, rows)
        sums = similarity_sums(image, text, scales, rows, related, exclude=True)
        own = rows.own
        if related is None:
            negatives = torch.full_like(sums.positive_row, rows.total - 1)
        else:
            negatives = rows.total - related.count(image)
        second = 0 if shared else 2
        by_row = self._log_weighted(sums.by_row[0], sums.by_row[1], betas[0], negatives)
        by_column = self._log_weighted(
            sums.by_column[second, own], sums.by_column[second + 1, own], betas[1], negatives
        )
        if config.alpha > 0:
            itself = math.log(config.alpha) + (image * text).sum(1) * one
            by_row, by_column = torch.logaddexp(by_row, itself), torch.logaddexp(by_column, itself)
        # A row whose every other row is a positive has no negatives: it pulls only.
        alone = negatives == 0
        by_row, by_column = by_row.masked_fill(alone, 0.0), by_column.masked_fill(alone, 0.0)
        return (
            rows.share(by_row.sum() - (sums.positive_row * one).sum()),
            rows.share(by_column.sum() - (sums.positive_column * one).sum()),
        )

    def _log_weighted(self, hard: Tensor, soft: Tensor, beta: float, negatives: Tensor) -> Tensor:
        """Return `log sum w exp(a)` from the log-sum-exps of (1 + β) a and of β a."""
        if self.config.detach_weights:
            pulled = hard / (1 + beta)
            hard, soft = pulled + (hard - pulled).detach(), soft.detach()
        return hard - soft + negatives.clamp(min=1).log()


def released_code(a: Tensor, beta_image: float, beta_text: float, alpha: float) -> Tensor:
    """Return what `loss/hnl.py` of MedCLIP-SAM(v2) returns for logits `a` [N, N], image by text, already over τ.

    Its masks multiply, so that masked entries are exp(0) = 1 instead of gone; its weights' normaliser knows no β and is
    broadcast over columns; nothing is summed over negatives before the logarithm.
    """
    n = a.shape[0]
    own = torch.eye(n, dtype=a.dtype, device=a.device)
    total = a.new_zeros(())
    for side, beta in ((a, beta_image), (a.T, beta_text)):
        positive, negative = side * own, side * (1 - own)
        weight = math.log(n - 1) + beta * negative - torch.logsumexp(negative, 1)
        denominator = weight + negative
        if alpha > 0:
            denominator = torch.logaddexp(denominator, math.log(alpha) + positive)
        total = total + (denominator - positive).mean()
    return total
