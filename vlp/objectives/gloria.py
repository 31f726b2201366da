"""GLoRIA: whole images against whole reports, and words against the regions that they attend to.

Huang, Shen, Lungren, Yeung, *GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient
Medical Image Recognition*, ICCV 2021.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import dist
from ..config import ConfigError, config
from ..types import Batch, Losses, ModelOutput
from .base import Objective, objectives, unit
from .contrastive import info_nce, info_nce_of_logits
from .pairs import Positives, Rows, needs_of, relation
from .streaming import MASKED

PAIR_VALUES = 1 << 20
"""Region-word values (4 MiB in fp32) looked at together: what stays in a cache."""


@objectives.register("gloria")
class Gloria(Objective):
    """`L = w_g L_global + w_l L_local`, each the *sum* of both directions' cross-entropies at scale τ3 = 10.

    Local: words share out each region (softmax over words of raw products), regions are then shared out to each word
    (softmax over regions at τ1 = 4), and the word is compared with its mixture of regions: `Z_bk = log sum_n
    exp(τ2 cos(w_n, c_n))`, τ2 = 5, `aggregate: mean` divides the sum by the words. Constants multiply, as in the code.

    How the released code differs: negatives come from one process (here from all ranks); its words begin with CLS and end
    before SEP (here the words that the tokenizer's map knows); it loops over texts and breaks at batch size 1.
    """

    @config
    class Config:
        attention: float = 4.0
        matching: float = 5.0
        contrast: float = 10.0
        aggregate: Literal["sum", "mean"] = "sum"
        local_weight: float = 1.0
        global_weight: float = 1.0
        positives: Positives = "diagonal"

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__(config, dim)
        if min(config.attention, config.matching, config.contrast) <= 0:
            raise ConfigError(f"attention, matching and contrast must be above 0, found {config}")
        self.needs = frozenset({"patches", "words"}) | needs_of(config.positives)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config: Any = self.config
        assert output.patches is not None and output.words is not None and output.word_mask is not None
        rows = Rows.of(len(batch), even=self.training)
        related = relation(config.positives, batch, rows)
        scale = torch.full((), config.contrast, dtype=output.image.dtype, device=output.image.device)
        whole = sum(info_nce(unit(output.image), unit(output.text), scale, rows, related), scale.new_zeros(()))
        # Texts are as wide as their own batch's longest: the ranks agree on the widest before they exchange words.
        more = max(dist.counts(output.words.shape[1])) - output.words.shape[1]
        words = rows.gather(pad(output.words, (0, 0, 0, more)))
        mask = rows.gather(pad(output.word_mask, (0, more)))
        match: Tensor = WordMatch.apply(output.patches, words, mask, config.attention, config.matching)
        if config.aggregate == "mean":
            match = match - mask.sum(1).clamp(min=1).to(match.dtype).log()
        local = sum(info_nce_of_logits(config.contrast * match, rows, related), scale.new_zeros(()))
        return Losses(config.global_weight * whole + config.local_weight * local, {"global": whole, "local": local})


class WordMatch(torch.autograd.Function):
    """GLoRIA's image-text similarity from words and regions, for all pairs; nothing but inputs is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, regions: Tensor, words: Tensor, mask: Tensor, attention: float, matching: float) -> Tensor:
        """Return Z [B, N] of regions [B, P, D] and words [N, W, D] with mask [N, W]; 0 for a text without words."""
        match = regions.new_zeros((regions.shape[0], words.shape[0]))
        for texts in _text_blocks(regions, words):
            some, real = words[texts], mask[texts]
            for index, image in enumerate(regions):
                match[index, texts] = _compare(image, some, real, attention, matching)[0]
        ctx.save_for_backward(regions, words, mask)
        ctx.attention, ctx.matching = attention, matching
        return match

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        regions, words, mask = ctx.saved_tensors
        grad_regions, grad_words = torch.zeros_like(regions), torch.zeros_like(words)
        for texts in _text_blocks(regions, words):
            some, real = words[texts], mask[texts]
            for index, image in enumerate(regions):
                for_image, for_words = _compare_backward(grad[index, texts], image, some, real, ctx)
                grad_regions[index] += for_image
                grad_words[texts] += for_words
        return grad_regions, grad_words, None, None, None


def _text_blocks(regions: Tensor, words: Tensor) -> list[slice]:
    step = max(1, PAIR_VALUES // max(1, regions.shape[1] * words.shape[1]))
    return [slice(low, min(low + step, words.shape[0])) for low in range(0, words.shape[0], step)]


def _compare(
    regions: Tensor, words: Tensor, mask: Tensor, attention: float, matching: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compare one image's regions [P, D] with n texts' words [n, W, D].

    Returns Z [n], then for the backward: the words' shares of each region [P, n, W], the regions' shares of each word
    [P, n W], contexts [n, W, D], cosines [n, W], and the lengths of words and of contexts [n, W].
    """
    count, width, dim = words.shape
    flat = words.reshape(count * width, dim)
    product = (regions @ flat.T).view(-1, count, width)
    by_word = torch.softmax(product.masked_fill_(~mask, MASKED), 2)
    by_region = torch.softmax(by_word.view(-1, count * width) * attention, 0)
    context = (by_region.T @ regions).view(count, width, dim)
    word_length = words.norm(dim=2).clamp_(min=1e-6)
    context_length = context.norm(dim=2).clamp_(min=1e-6)
    cosine = (words * context).sum(2) / (word_length * context_length)
    match = torch.logsumexp((cosine * matching).masked_fill(~mask, MASKED), 1)
    return match.masked_fill(~mask.any(1), 0.0), by_word, by_region, context, cosine, word_length, context_length


def _compare_backward(grad: Tensor, regions: Tensor, words: Tensor, mask: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
    """Return the gradients of regions [P, D] and words [n, W, D], from that of Z [n]."""
    match, by_word, by_region, context, cosine, word_length, context_length = _compare(
        regions, words, mask, ctx.attention, ctx.matching
    )
    count, width, dim = words.shape
    share = (cosine * ctx.matching - match[:, None]).exp().masked_fill(~mask, 0.0)
    for_cosine = share * (grad * ctx.matching)[:, None]
    cross = (for_cosine / (word_length * context_length))[..., None]
    for_context = cross * words - (for_cosine * cosine / context_length.square())[..., None] * context
    for_words = cross * context - (for_cosine * cosine / word_length.square())[..., None] * words
    flat = for_context.view(count * width, dim)
    # Softmax over regions: the sum that its backward subtracts is (context . its gradient), already at hand.
    for_share = (regions @ flat.T).sub_((context * for_context).sum(2).view(-1)).mul_(by_region).mul_(ctx.attention)
    for_share = for_share.view(-1, count, width)
    # Softmax over words.
    inner = torch.einsum("pnw,pnw->pn", for_share, by_word)
    for_product = for_share.sub_(inner[..., None]).mul_(by_word).view(-1, count * width)
    for_regions = by_region @ flat + for_product @ words.reshape(count * width, dim)
    return for_regions, for_words + (for_product.T @ regions).view(count, width, dim)
