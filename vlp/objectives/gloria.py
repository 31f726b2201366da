"""GLoRIA: whole images against whole reports, and words against the regions that they attend to.

Huang, Shen, Lungren, Yeung, *GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient
Medical Image Recognition*, ICCV 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import config

from .base import Objective, Positive, l2_normalize, objectives
from .functional.info_nce import info_nce, info_nce_of_logits
from .functional.positives import Positives, RankRows, needs_of, relation
from .functional.tiled import MASKED

PAIR_VALUES = 1 << 20
"""Region-word values (4 MiB in fp32) looked at together: what stays in a cache."""


@config
class GloriaConfig:
    attention: Positive = 4.0
    matching: Positive = 5.0
    contrast: Positive = 10.0
    aggregate: Literal["sum", "mean"] = "sum"
    local_weight: float = 1.0
    global_weight: float = 1.0
    positives: Positives = "diagonal"


@objectives.register("gloria")
class Gloria(Objective[GloriaConfig]):
    """`L = w_g L_global + w_l L_local`, each the *sum* of both directions' cross-entropies at scale τ3 = 10.

    Local: words share out each region (softmax over words of raw products), regions are then shared out to each word
    (softmax over regions at τ1 = 4), and the word is compared with its mixture of regions: `Z_bk = log sum_n
    exp(τ2 cos(w_n, c_n))`, τ2 = 5, `aggregate: mean` divides the sum by the words. Constants multiply, as in the code.

    How the released code differs: negatives come from one process (here from all ranks); its words begin with CLS and end
    before SEP (here the words that the tokenizer's map knows); it loops over texts and breaks at batch size 1.
    """

    def __init__(self, config: GloriaConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.needs = frozenset({"patches", "words"}) | needs_of(config.positives)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        assert output.patches is not None and output.words is not None and output.word_mask is not None
        rows = RankRows.of(batch, even=self.training)
        related = relation(config.positives, batch, rows)
        scale = torch.full((), config.contrast, dtype=output.image.dtype, device=output.image.device)
        whole = sum(
            info_nce(l2_normalize(output.image), l2_normalize(output.text), scale, rows, related), scale.new_zeros(())
        )
        # Texts are as wide as their own batch's longest: the ranks agree on the widest before they exchange words.
        more = max(distributed.counts(output.words.shape[1])) - output.words.shape[1]
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
            some = Texts.of(words[texts], mask[texts])
            for index, image in enumerate(regions):
                match[index, texts] = compare(image, some, attention, matching).match
        ctx.save_for_backward(regions, words, mask)
        ctx.attention, ctx.matching = attention, matching
        return match

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        regions, words, mask = ctx.saved_tensors
        grad_regions, grad_words = torch.zeros_like(regions), torch.zeros_like(words)
        for texts in _text_blocks(regions, words):
            some = Texts.of(words[texts], mask[texts])
            direct, by_unit = torch.zeros_like(some.words), torch.zeros_like(some.words)
            for index, image in enumerate(regions):
                it = compare(image, some, ctx.attention, ctx.matching)
                weight = it.cosine.mul(ctx.matching).sub_(it.match[:, None]).exp_()
                weight.mul_((grad[index, texts] * ctx.matching)[:, None]).masked_fill_(~some.mask, 0.0)
                grad_regions[index] += _compare_backward(weight, image, some, it, ctx.attention, direct, by_unit)
            # Through the words' lengths once a block: a unit vector moves across itself only.
            along = torch.linalg.vecdot(by_unit, some.units)[..., None]
            grad_words[texts] = direct + (by_unit - along * some.units) / some.lengths
        return grad_regions, grad_words, None, None, None


def _text_blocks(regions: Tensor, words: Tensor) -> list[slice]:
    step = max(1, PAIR_VALUES // max(1, regions.shape[1] * words.shape[1]))
    return [slice(low, min(low + step, words.shape[0])) for low in range(0, words.shape[0], step)]


@dataclasses.dataclass(frozen=True)
class Texts:
    """n texts' words [n, W, D] with mask [n, W], also as unit vectors, and their lengths [n, W, 1]."""

    words: Tensor
    mask: Tensor
    units: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, words: Tensor, mask: Tensor) -> Texts:
        lengths = words.norm(dim=2, keepdim=True).clamp_(min=1e-6)
        return cls(words.contiguous(), mask, words / lengths, lengths)


@dataclasses.dataclass(frozen=True)
class Compared:
    """One image's regions against n texts' words: Z [n], and what the backward needs of the way there.

    `by_word` [P, n, W], the words' shares of each region; `powers` [P, n W], the regions' shares of each word up to a factor
    per word; `context` [n, W, D], the words' mixtures of regions up to that factor, which no cosine sees; `cosine` [n, W].
    """

    match: Tensor
    by_word: Tensor
    powers: Tensor
    context: Tensor
    length: Tensor
    cosine: Tensor


def compare(regions: Tensor, texts: Texts, attention: float, matching: float) -> Compared:
    """Compare one image's regions [P, D] with n texts."""
    count, width, dim = texts.words.shape
    product = (
        (regions @ texts.words.view(count * width, dim).T).view(-1, count, width).masked_fill_(~texts.mask, MASKED)
    )
    by_word = torch.softmax(product, 2)
    # The second softmax, over regions, needs no maximum taken out, as shares are at most 1, and no division either.
    powers = torch.mul(by_word, attention, out=product).exp_().view(-1, count * width)
    context = (powers.T @ regions).view(count, width, dim)
    length = torch.linalg.vecdot(context, context).sqrt_().clamp_(min=1e-6)
    cosine = torch.linalg.vecdot(texts.units, context).div_(length)
    match = torch.logsumexp((cosine * matching).masked_fill_(~texts.mask, MASKED), 1)
    return Compared(match.masked_fill_(~texts.mask.any(1), 0.0), by_word, powers, context, length, cosine)


def _compare_backward(
    slope: Tensor, regions: Tensor, texts: Texts, it: Compared, attention: float, direct: Tensor, by_unit: Tensor
) -> Tensor:
    """Return the gradient of regions [P, D] from that of the cosines [n, W]; add those of words and of unit words."""
    count, width, dim = texts.words.shape
    cross = (slope / it.length)[..., None]
    by_unit.addcmul_(it.context, cross)
    for_context = texts.units * cross
    for_context.addcmul_(it.context, (slope * it.cosine / it.length.square())[..., None], value=-1)
    flat = for_context.view(count * width, dim)
    # Softmax over regions: what its backward subtracts is context . for_context, 0 as a cosine is flat along its vector.
    for_share = (regions @ flat.T).mul_(it.powers).view(-1, count, width)
    # Softmax over words.
    inner = torch.linalg.vecdot(for_share, it.by_word)
    for_product = for_share.sub_(inner[..., None]).mul_(it.by_word).view(-1, count * width)
    direct.view(count * width, dim).addmm_(for_product.T, regions, alpha=attention)
    return (it.powers @ flat).addmm_(for_product, texts.words.view(count * width, dim), alpha=attention)
