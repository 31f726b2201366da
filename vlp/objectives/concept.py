"""Concept alignment: what the report names must be found in some patch of its image.

Nie et al., *An Explainable Biomedical Foundation Model via Large-Scale Concept-Enhanced Vision-Language Pre-training*
(ConceptCLIP), 2025 (arXiv 2501.15579).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import ConfigError, config

from .base import Objective, Positive, Scale, Share, l2_normalize, objectives
from .clip import clip_loss
from .functional.info_nce import over_ranks
from .functional.patch_pooling import Pool, pooled_similarity
from .functional.positives import Positives, RankRows, needs_of
from .functional.tiled import MASKED
from .siglip import siglip_loss


@dataclasses.dataclass(frozen=True)
class Concepts:
    """The concepts of all ranks: vectors [T, D] of unit length, owner [T] (row of all rows) and code [T]; own [t0, t1)."""

    vectors: Tensor
    owner: Tensor
    code: Tensor
    own: slice

    @classmethod
    def gathered(cls, vectors: Tensor, owner: Tensor, code: Tensor, rows: RankRows) -> Concepts:
        everyone, counts = distributed.gather_uneven(vectors)
        start = sum(counts[: distributed.rank()])
        facts = distributed.gather_uneven(torch.stack([owner + rows.start, code], 1))[0]
        return cls(
            vectors=everyone, owner=facts[:, 0], code=facts[:, 1], own=slice(start, start + counts[distributed.rank()])
        )

    def of(self, rows: RankRows) -> tuple[Tensor, Tensor]:
        """Return bool [b, T]: which concepts an own image's report mentions, and which codes it mentions."""
        images = torch.arange(rows.start, rows.start + rows.count, device=self.owner.device)
        mentioned = images[:, None] == self.owner
        same = (self.code[self.own, None] == self.code).float()
        return mentioned, (mentioned[:, self.own].float() @ same) > 0


@config
class ConceptConfig:
    align: Literal["siglip", "clip", "none"] = "siglip"
    alpha: float = 0.5
    of: Literal["spans", "phrases"] = "spans"
    pool: Pool = "max"
    gamma: Positive = 8.0
    loss: Literal["sigmoid", "softmax"] = "sigmoid"
    per: Literal["concept", "report"] = "concept"
    temperature: Positive = 0.1
    image_to_concept: Share = 0.5
    matches: Literal["ignore", "positive", "negative"] = "ignore"
    mentions: Literal["present", "all"] = "present"
    scale: Scale = 1 / 0.07
    bias: float = -10.0
    align_scale: Scale = 10.0
    align_bias: float = -10.0
    positives: Positives = "diagonal"


@objectives.register("concept")
class Concept(Objective[ConceptConfig]):
    """`L = L_IT + α L_PC`: images against texts (IT-Align) and images' patches against concepts (PC-Align).

    The similarity of image b and concept t pools the cosines of b's patches with t's vector: `g_bt = pool_m p_bm . c_t`.
    `of: spans` takes as c_t the mean of the text's token states over the mention (ConceptCLIP), `of: phrases` the
    embedding of the sentence that asserts it, encoded on its own.

    `loss: sigmoid` is ConceptCLIP's `-(1/T) sum_bt log sigmoid(y_bt (s g_bt + b))` with its own learned s and b;
    `per: report` first joins a report's concepts, `u_bk = log mean_t exp(s g_bt + b)`, and divides by the number of
    images. `loss: softmax` is InfoNCE over temperature τ between concepts and images, in both directions.

    An image whose own report holds the same code is no negative for another sample's mention of it: `matches: ignore`
    leaves the pair out, `positive` makes it a match, `negative` is ConceptCLIP's. `mentions: present` uses what the text
    affirms, `all` also what it denies, as ConceptCLIP does. Mentions that reach past the text are dropped and counted.
    ConceptCLIP: `{align: siglip, alpha: 0.5, of: spans, pool: max, loss: sigmoid, matches: negative, mentions: all}`.
    """

    def __init__(self, config: ConceptConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.per == "report" and config.loss == "softmax":
            raise ConfigError("per: report joins concepts for the sigmoid loss only: use loss: sigmoid")
        needs = {"patches", "tokens", "spans"} if config.of == "spans" else {"patches", "phrases"}
        if config.align != "none":
            needs |= {"logit_scale", "logit_bias"} if config.align == "siglip" else {"logit_scale"}
            self.scale_init = (math.log(config.align_scale), config.align_bias if config.align == "siglip" else None)
        self.needs = frozenset(needs) | needs_of(config.positives)
        if config.loss == "sigmoid":
            self.concept_logit_scale = nn.Parameter(torch.tensor([math.log(config.scale)]))
            self.concept_logit_bias = nn.Parameter(torch.tensor([config.bias]))

    def bounds(self) -> dict[str, tuple[float, float]]:
        return {"concept_logit_scale": (0.0, math.log(100))} if self.config.loss == "sigmoid" else {}

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        patch_loss, dropped = self._patches(output, batch)
        parts = {"patches": patch_loss}
        if dropped is not None:
            parts["spans_dropped"] = dropped
        if config.align == "none":
            return Losses(config.alpha * patch_loss, parts)
        if config.align == "siglip":
            aligned = siglip_loss(output, batch, config.positives, "gather", even=self.training)
        else:
            aligned = clip_loss(output, batch, config.positives, even=self.training)
        return Losses(aligned.total + config.alpha * patch_loss, {**parts, "global": aligned.total})

    def _patches(self, output: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor | None]:
        config = self.config
        assert output.patches is not None
        rows = RankRows.of(batch, even=self.training)
        vectors, owner, code, dropped = self._own_concepts(output, batch)
        # The ranks' backward collectives must meet even where this rank has no concept: tie the empty rows to the graph.
        vectors = l2_normalize(vectors) + 0 * output.image.sum()
        concepts = Concepts.gathered(vectors, owner, code, rows)
        patches = l2_normalize(output.patches)
        if concepts.vectors.shape[0] == 0:
            nothing = 0 * (patches.sum() + vectors.sum() + output.image.sum())
            return nothing + sum((0 * parameter.sum() for parameter in self.parameters()), nothing), dropped
        similarity = pooled_similarity(patches, concepts.vectors, config.pool, config.gamma)
        mentioned, true = concepts.of(rows)
        if config.loss == "softmax":
            return self._softmax(similarity / config.temperature, mentioned, true, concepts, rows), dropped
        z = self.concept_logit_scale.exp() * similarity + self.concept_logit_bias
        if config.per == "report":
            return self._per_report(z, true, concepts, rows), dropped
        share: Tensor = _sigmoid(z, mentioned, true, config.matches) * (rows.world / z.shape[1])
        return share, dropped

    def _own_concepts(self, output: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        config = self.config
        if config.of == "phrases":
            assert batch.phrases is not None
            found = output.phrases if output.phrases is not None else output.image.new_zeros((0, output.image.shape[1]))
            if found.shape[0] != len(batch.phrases.owner):
                raise ConfigError(
                    f"objective {self.name!r}: {len(batch.phrases.owner)} phrases in the batch, but ModelOutput.phrases "
                    f"has {found.shape[0]} rows: build the model with this objective's needs"
                )
            return found, batch.phrases.owner, batch.phrases.code, None
        spans, tokens = batch.spans, output.tokens
        assert spans is not None and tokens is not None
        inside = (spans.start >= 0) & (spans.end > spans.start) & (spans.end <= tokens.shape[1])
        dropped = (~inside).sum() + spans.dropped
        if config.mentions == "present":
            inside = inside & (spans.assertion == 1)
        chosen = inside.nonzero().squeeze(1)  # once: each choice by a mask makes the host wait for the device
        start, end, owner, code = (column[chosen] for column in (spans.start, spans.end, spans.owner, spans.code))
        return span_means(tokens, start, end, owner), owner, code, dropped.to(tokens.dtype)

    def _softmax(self, logits: Tensor, mentioned: Tensor, true: Tensor, concepts: Concepts, rows: RankRows) -> Tensor:
        config = self.config
        own, total = concepts.own, logits.shape[1]
        # Over images: each concept against all images, those that it is true of left out (or among its targets).
        hidden = true & ~mentioned if config.matches == "ignore" else torch.zeros_like(true)
        over_images = over_ranks(torch.logsumexp(logits.masked_fill(hidden, MASKED), 0))
        target = (true if config.matches == "positive" else mentioned).to(logits.dtype)
        pull = (target * logits / distributed.sum_over_ranks(target.sum(0))).sum()
        to_image = over_images[own].sum() - pull
        # Over concepts: an own image's mention against those of others; its report's other mentions are never negatives.
        hidden = mentioned if config.matches == "negative" else true
        others = torch.logsumexp(logits.masked_fill(hidden, MASKED), 1)
        image = concepts.owner[own] - rows.start
        correct = logits[:, own][image, torch.arange(len(image), device=image.device)]
        to_concept = (torch.logaddexp(others[image], correct) - correct).sum()
        share = config.image_to_concept
        return (share * to_concept + (1 - share) * to_image) * (rows.world / total)

    def _per_report(self, z: Tensor, true: Tensor, concepts: Concepts, rows: RankRows) -> Tensor:
        index = concepts.owner.expand(z.shape[0], -1)
        blank = z.new_full((z.shape[0], rows.total), -torch.inf)
        top = blank.scatter_reduce(1, index, z.detach(), "amax")
        top = torch.where(top.isinf(), torch.zeros_like(top), top)
        count = torch.bincount(concepts.owner, minlength=rows.total)
        summed = torch.zeros_like(blank).index_add(1, concepts.owner, (z - top.gather(1, index)).exp())
        mentioned = torch.zeros_like(blank).index_add(1, concepts.owner, true.to(z.dtype))
        held = count > 0
        joined = (summed[:, held] / count[held]).log() + top[:, held]
        # A report is true of another's image when each of its concepts is.
        return rows.share(
            _sigmoid(joined, rows.diagonal(z)[:, held], (mentioned == count)[:, held], self.config.matches)
        )


def _sigmoid(z: Tensor, mentioned: Tensor, true: Tensor, matches: str) -> Tensor:
    positive = true | mentioned if matches == "positive" else mentioned
    losses = -F.logsigmoid(torch.where(positive, z, -z))
    if matches == "ignore":
        losses = losses.masked_fill(true & ~mentioned, 0.0)
    return losses.sum()


def span_means(tokens: Tensor, start: Tensor, end: Tensor, owner: Tensor) -> Tensor:
    """Return [T, D]: the mean of `tokens[owner, start:end]` of states [B, L, D], for spans inside [0, L], T may be 0."""
    length = end - start
    concept = torch.repeat_interleave(torch.arange(len(length), device=tokens.device), length)
    first = torch.cumsum(length, 0) - length
    position = start[concept] + torch.arange(len(concept), device=tokens.device) - first[concept]
    states = tokens[owner[concept], position]
    summed = tokens.new_zeros((len(length), tokens.shape[2])).index_add(0, concept, states)
    return summed / length.clamp(min=1)[:, None]
