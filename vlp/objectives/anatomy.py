"""Anatomy: what the report says of each organ against what the image shows of it.

With masks: Shui et al., *Large-scale and Fine-grained Vision-language Pre-training for Enhanced CT Image Understanding*
(fVLM), ICLR 2025 (arXiv 2501.14548). With learned queries alone: *ConQuer*, of which the abstract alone was read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import ConfigError, config
from vlp.needs.organs import Organ, Organs, OrganSettings

from .base import Objective, Positive, l2_normalize, objectives
from .functional.patch_pooling import by_chunks
from .functional.tiled import MASKED

NEED = "extras.organs"
NORMAL = ("normal", "unremarkable", "within normal limits", "no abnormal", "no significant abnormal", "clear")
COLDEST, WARMEST = 0.001, 0.5


@config
class AnatomyConfig:
    organs: Mapping[str, Organ]
    masks: bool = True
    whole: bool = True
    matches: Literal["normal", "text", "own"] = "normal"
    reduction: Literal["sum", "mean"] = "sum"
    temperature: Positive = 0.07
    normal: tuple[str, ...] = NORMAL


@objectives.register("anatomy")
class Anatomy(Objective[AnatomyConfig]):
    """`L = sum_c L_c`, per organ c the mean of both directions' cross-entropies of `cos(v_ic, t_jc) / τ`, τ learned.

    `v_ic = W_c sum_p a_p x_ip`, `a = softmax(q_c . K x_ip / sqrt D)`: the organ's learned query reads the cells that its mask
    touches, and a projection of its own follows. `t_jc`: the sentences of report j that speak of the organ. The samples of all
    ranks that have both take part; an organ that touches the border of the crop is left out (`whole: false` keeps it).

    `matches: normal` spreads the target over the own pair, equal texts, and, for a normal organ, all that are normal; an
    organ that no report of the batch finds abnormal has nothing to tell apart and is left out. `text` stops at equal texts,
    `own` at the own pair. The temperature, in [0.001, 0.5], is kept there by the optimiser.

    `masks: false`: each query reads all cells, and needs no masks; ConQuer's is `{masks: false, matches: own,
    reduction: mean}`, a mean over the organs that are there.

    How the released code (fVLM's) differs: it reads the tokens of several layers together (here those of the patch head);
    "normal" is a prefix of the text, so that "X shows no significant abnormalities. <more>" counts as normal (here each
    sentence must say so and assert nothing); its negatives are of one process.
    """

    needs = frozenset({"patches", NEED})

    def __init__(self, config: AnatomyConfig, dim: int) -> None:
        super().__init__(config, dim)
        if not config.organs:
            raise ConfigError("organs: at least one is needed")
        if not COLDEST <= config.temperature <= WARMEST:
            raise ConfigError(f"temperature: expected {COLDEST} to {WARMEST}, found {config.temperature}")
        count = len(config.organs)
        self.query = nn.Parameter(0.02 * torch.randn(count, dim))
        self.key = nn.Linear(dim, dim, bias=False)
        self.project = nn.Parameter(torch.eye(dim).repeat(count, 1, 1))
        self.anatomy_logit_scale = nn.Parameter(torch.tensor([-math.log(config.temperature)]))

    def need_settings(self) -> dict[str, Any]:
        config = self.config
        return {NEED: OrganSettings(config.organs, config.masks, config.masks and config.whole, config.normal)}

    def bounds(self) -> dict[str, tuple[float, float]]:
        return {"anatomy_logit_scale": (-math.log(WARMEST), -math.log(COLDEST))}

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        entries, texts = batch.extras["organs"], output.extras["organs"]
        assert isinstance(entries, Organs) and output.patches is not None
        if len(texts) != len(entries.owner):
            raise ConfigError(
                f"objective {self.name!r}: {len(entries.owner)} organs in the batch, but ModelOutput.extras['organs'] has "
                f"{len(texts)} rows: build the model with this objective's needs"
            )
        if self.config.masks and entries.cells is None:
            raise ConfigError(
                f"objective {self.name!r}: the batch's organs have no cells: give the loader the model's grid"
            )
        seen = l2_normalize(self._read(output.patches, entries)[entries.owner, entries.organ])
        # The ranks' backward collectives must meet even where this rank has no organ: tie the empty rows to the graph.
        said = l2_normalize(texts) + 0 * seen.sum() + 0 * output.image.sum()
        both, counts = distributed.gather_uneven(torch.stack([seen, said], 1))
        own = torch.stack([entries.organ, entries.normal.long(), entries.code], 1)
        everyone = distributed.gather_uneven(own)[0]
        place = sum(counts[: distributed.rank()]) + torch.arange(len(own), device=own.device)
        scale = self.anatomy_logit_scale.exp().reshape(())
        compare = partial(organ_losses, matches=self.config.matches)
        # Nothing here waits for the device: all pairs are compared, and those of two organs masked.
        found = by_chunks(
            compare, (seen, said, own, place), (*both.unbind(1), everyone, scale), 4 * len(own) * len(everyone)
        )
        total, organs = found.sum(0) + 0 * scale
        if self.config.reduction == "mean":
            total = total / distributed.sum_over_ranks(organs.detach()).round().clamp(min=1)
        return Losses(total * distributed.world())

    def _read(self, patches: Tensor, entries: Organs) -> Tensor:
        """Return what each organ's query reads of each sample, projected [B, organs, D]."""
        samples, cells, _ = patches.shape
        allowed = torch.ones((samples, len(self.query), cells), dtype=torch.bool, device=patches.device)
        if self.config.masks and entries.cells is not None and len(entries.owner):
            allowed[entries.owner, entries.organ] = entries.cells
        held = 3 * allowed.numel() + patches.numel()
        read = by_chunks(query_pooling, (patches, allowed), (self.query, self.key.weight), held)
        return torch.einsum("bcd,ced->bce", read, self.project)


def query_pooling(patches: Tensor, allowed: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return [B, C, D]: of patches [B, P, D] the mean that each query [C, D] attends to among the `allowed` [B, C, P].

    Scaled dot products of the queries with `key` [D, D] times the patches.
    """
    logits = (query @ key / math.sqrt(query.shape[1])) @ patches.mT
    return torch.softmax(logits.masked_fill(~allowed, MASKED), 2) @ patches


def organ_losses(
    image: Tensor,
    text: Tensor,
    own: Tensor,
    place: Tensor,
    images: Tensor,
    texts: Tensor,
    everyone: Tensor,
    scale: Tensor,
    matches: str,
) -> Tensor:
    """Return [n, 2] of n own pairs: the mean of both directions' cross-entropies, and 1, each over its organ's number of pairs.

    Vectors [n, D] and [N, D] of all ranks have unit length; `own` [n, 3] and `everyone` [N, 3]: organ, whether normal, code of
    the text; `place` [n]: which of all pairs the own ones are. Zero for an organ that is left out.
    """
    target, same = positive_shares(own, place, everyone, matches)
    weight = 1 / same.sum(1).to(image.dtype)
    if matches == "normal":
        weight = weight * (same & (everyone[:, 1] == 0)).any(1)
    losses = torch.zeros_like(weight)
    for queries, others in ((image, texts), (text, images)):
        logits = (scale * queries @ others.T).masked_fill(~same, MASKED)
        losses = losses + torch.logsumexp(logits, 1) - (target.to(logits.dtype) * logits).sum(1)
    return torch.stack([losses / 2 * weight, weight], 1)


def positive_shares(own: Tensor, place: Tensor, everyone: Tensor, matches: str) -> tuple[Tensor, Tensor]:
    """Return the targets [n, N] of own pairs among all, rows of sum 1, and which of these are of the same organ, bool."""
    same = own[:, 0, None] == everyone[:, 0]
    related = place[:, None] == torch.arange(len(everyone), device=place.device)
    if matches != "own":
        related = related | (own[:, 2, None] == everyone[:, 2])
    if matches == "normal":
        related = related | (own[:, 1, None] * everyone[:, 1] == 1)
    related = related & same
    return related / related.sum(1, keepdim=True), same
