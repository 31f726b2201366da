"""MGCA: alignment of instances, of tokens within a pair, and of prototype assignments across the batch.

Wang, Zhou, Wang, Vardhanabhuti, Yu, *Multi-Granularity Cross-modal Alignment for Generalized Medical Visual
Representation Learning*, NeurIPS 2022 (arXiv 2210.06044).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import config

from .base import Count, Objective, Positive, l2_normalize, objectives
from .functional.info_nce import info_nce
from .functional.patch_pooling import by_chunks
from .functional.positives import Positives, RankRows, needs_of, relation
from .functional.tiled import MASKED

WEIGHTS = {"cli": (1.0, 1.0, 1.0), "class_defaults": (1.0, 0.7, 0.5)}
"""(ITA, CTA, CPA): what the published command line runs with, and the defaults in its model class."""


@config
class MgcaConfig:
    preset: Literal["cli", "class_defaults"] = "cli"
    ita: float | None = None
    cta: float | None = None
    cpa: float | None = None
    temperature: Positive = 0.07
    token_temperature: Positive = 0.1
    prototype_temperature: Positive = 0.2
    prototypes: Count = 500
    sinkhorn_epsilon: Positive = 0.05
    sinkhorn_rounds: Count = 3
    freeze: float = 0.02
    normalise_attended: bool = True
    positives: Positives = "diagonal"


@objectives.register("mgca")
class Mgca(Objective[MgcaConfig]):
    """`L = λ1 L_ITA + λ2 L_CTA + λ3 L_CPA`.

    ITA: the *sum* of both directions' cross-entropies at τ1 = 0.07. CTA: within each pair, every word against what it
    attends to among the patches, with the sample's other words as negatives, and every patch alike (τ2 = 0.1); tokens
    weighted by the pooling token's attention, clipped to its 10 % and 90 % quantiles. CPA: each side predicts the other's
    Sinkhorn assignment to K prototypes (τ3 = 0.2, ε = 0.05, 3 rounds); prototypes rest for the first `freeze` of training.

    How the released code differs: Sinkhorn and negatives are of one rank only; padding counts as negatives among words and
    in batch normalisation; words are weighted by the attention to the token behind; with a ViT, what patches attend to is
    not normalised. Of these only the last is offered (`normalise_attended: false`): the others depend on the number of ranks
    or on the length that texts are padded to, and cannot give the released loss here.
    """

    def __init__(self, config: MgcaConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.needs = frozenset({"patches", "words", "attention"}) | needs_of(config.positives)
        self.follows_progress = config.freeze > 0
        given = (config.ita, config.cta, config.cpa)
        self.shares = [
            preset if own is None else own for own, preset in zip(given, WEIGHTS[config.preset], strict=True)
        ]
        self.prototypes = nn.Parameter(l2_normalize(torch.randn(config.prototypes, dim)))

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        rows = RankRows.of(batch, even=self.training)
        image, text = l2_normalize(output.image), l2_normalize(output.text)
        scale = torch.ones((), dtype=image.dtype, device=image.device) / config.temperature
        ita = sum(info_nce(image, text, scale, rows, relation(config.positives, batch, rows)), image.new_zeros(()))
        cta = rows.share(self._tokens(output).sum())
        cpa = rows.share(self._prototypes(image, text).sum())
        parts = {"ita": ita, "cta": cta, "cpa": cpa}
        total = sum(
            (share * part for share, part in zip(self.shares, parts.values(), strict=True)), image.new_zeros(())
        )
        return Losses(total, parts)

    def _prototypes(self, image: Tensor, text: Tensor) -> Tensor:
        config = self.config
        # Resting prototypes stay in the graph: their gradient is zero, not missing, and as only their direction counts,
        # weight decay alone changes nothing.
        prototypes: Tensor = self.prototypes
        if self.progress < config.freeze:
            prototypes = prototypes.detach() + 0 * prototypes
        scores = [l2_normalize(side) @ l2_normalize(prototypes.to(image.dtype)).T for side in (image, text)]
        codes = [sinkhorn(score.detach(), config.sinkhorn_epsilon, config.sinkhorn_rounds) for score in scores]
        logs = [torch.log_softmax(score / config.prototype_temperature, 1) for score in scores]
        return -(codes[0] * logs[1] + codes[1] * logs[0]).sum(1) / 2

    def _tokens(self, output: ModelOutput) -> Tensor:
        config = self.config
        assert output.words is not None and output.word_mask is not None and output.patches is not None
        words, patches, mask = l2_normalize(output.words), l2_normalize(output.patches), output.word_mask
        attention = mask if output.word_attention is None else output.word_attention
        word_weights = clipped_weights(attention.to(words.dtype) * mask)
        if output.patch_attention is None:
            patch_weights = torch.full_like(patches[..., 0], 1 / patches.shape[1])
        else:
            patch_weights = clipped_weights(output.patch_attention.to(patches.dtype))
        # A report without words has nothing for patches to attend to.
        patch_weights = patch_weights * mask.any(1, keepdim=True)
        every_patch = torch.ones_like(patches[..., 0], dtype=torch.bool)
        word_side = partial(token_contrast, temperature=config.token_temperature, normalise=True)
        patch_side = partial(token_contrast, temperature=config.token_temperature, normalise=config.normalise_attended)
        of_words = (words, patches, every_patch, mask, word_weights)
        of_patches = (patches, words, mask, every_patch, patch_weights)
        count, width, height = words.shape[0], words.shape[1], patches.shape[1]
        from_words = by_chunks(word_side, of_words, (), held=3 * count * width * (width + height))
        return from_words + by_chunks(patch_side, of_patches, (), held=3 * count * height * (width + height))


def token_contrast(
    queries: Tensor,
    context: Tensor,
    context_mask: Tensor,
    negatives: Tensor,
    weights: Tensor,
    temperature: float,
    *,
    normalise: bool,
) -> Tensor:
    """Return [B]: each query token against the context it attends to, its sample's other tokens as negatives.

    `queries` [B, Q, D] and `context` [B, C, D] of unit length; attention goes to `context_mask` [B, C], negatives are the
    query tokens in `negatives` [B, Q]; `weights` [B, Q] sum to 1. `½ sum_n w_n (row + column cross-entropy of token n)`.
    """
    attention = (queries @ context.transpose(1, 2) / temperature).masked_fill(~context_mask[:, None], MASKED)
    attended = torch.softmax(attention, 2) @ context
    if normalise:
        attended = l2_normalize(attended)
    logits = queries @ attended.transpose(1, 2) / temperature
    own = logits.diagonal(dim1=1, dim2=2)
    row = torch.logsumexp(logits.masked_fill(~negatives[:, None], MASKED), 2)
    column = torch.logsumexp(logits.masked_fill(~negatives[:, :, None], MASKED), 1)
    return (weights * (row + column - 2 * own)).sum(1) / 2


def clipped_weights(attention: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Return [B, N] weights of sum 1: `attention` clipped to the quantiles of its row's non-zero entries; zeros stay zero.

    Quantiles interpolate linearly. A row of zeros stays a row of zeros. The weights carry no gradient.
    """
    attention = attention.detach()
    counted = attention != 0
    ordered = attention.masked_fill(~counted, torch.inf).sort(1).values
    last = (counted.sum(1, keepdim=True) - 1).clamp(min=0)

    def quantile(share: float) -> Tensor:
        place = share * last.to(attention.dtype)
        below = place.floor()
        lower = ordered.gather(1, below.long())
        upper = ordered.gather(1, place.ceil().long())
        return torch.where(upper.isinf(), lower, lower + (upper - lower) * (place - below)).nan_to_num(posinf=0.0)

    clipped = torch.where(counted, attention.clamp(quantile(low), quantile(high)), torch.zeros_like(attention))
    total = clipped.sum(1, keepdim=True)
    return torch.where(total > 0, clipped / total.clamp(min=torch.finfo(attention.dtype).tiny), clipped)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
    """Return codes [B, K], rows of sum 1: `scores` [B, K] (cosines) assigned so that prototypes are used alike.

    Alike over the batch of all ranks, which equals Sinkhorn on the concatenated scores.
    """
    total = distributed.sum_over_ranks(scores.new_full((), float(scores.shape[0])))
    codes = torch.exp((scores - 1) / epsilon)  # cosines are at most 1: never overflows, and the factor cancels
    codes = codes / distributed.sum_over_ranks(codes.sum())
    for _ in range(rounds):
        mass = distributed.sum_over_ranks(codes.sum(0))
        codes = codes / (mass.clamp(min=torch.finfo(codes.dtype).tiny) * scores.shape[1])
        codes = codes / (codes.sum(1, keepdim=True).clamp(min=torch.finfo(codes.dtype).tiny) * total)
    return codes * total
