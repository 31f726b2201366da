"""Several knowledge texts per finding: an image matches every description of what it shows.

The verifiable core of DeViDe (Luo et al., *DeViDe: Faceted medical knowledge for improved medical vision-language
pre-training*, 2024, arXiv 2404.03618): its exact formulas and weights are not published with code, so this is one image
against many facet texts as multi-positive contrast, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vlp.batch import Batch, Losses, ModelOutput, PromptSpec
from vlp.core import distributed
from vlp.core.config import ConfigError, config
from vlp.sample import ABSENT, PRESENT, UNKNOWN

from .base import Objective, Positive, Share, l2_normalize, mean_over_ranks, objectives, paired_prompts
from .functional.info_nce import over_ranks
from .functional.tiled import MASKED


@config
class MultiTextConfig:
    texts: Mapping[str, tuple[str, ...]]
    temperature: Positive = 0.1
    image_to_text: Share = 0.5
    unmentioned: Literal["ignore", "negative"] = "ignore"


@objectives.register("multi_text")
class MultiText(Objective[MultiTextConfig]):
    """`L = λ L_image + (1-λ) L_text`, cross-entropies over temperature τ with the target spread over all positives.

    Images against texts: the positives of an image are all texts of the findings that its report asserts present, the
    negatives those of the findings that it asserts absent. Texts against images: the positives of a text are all images of
    all ranks that show its finding. Findings that a report does not mention are left out, or negatives with
    `unmentioned: negative`; uncertain ones are always left out. Each mean runs over rows that have a positive.
    `texts` maps the code of a finding to its descriptions, definitions, facets.
    """

    needs = frozenset({"prompts"})

    def __init__(self, config: MultiTextConfig, dim: int) -> None:
        super().__init__(config, dim)
        if not config.texts or not all(config.texts.values()):
            raise ConfigError("texts: at least one finding, each with at least one text, is needed")

    def prompt_spec(self) -> PromptSpec:
        config = self.config
        pairs = [(code, text) for code, texts in config.texts.items() for text in texts]
        texts = tuple(text for _, text in pairs)
        # The denying half of the pairs is not used: one empty text stands for all.
        return PromptSpec(findings=tuple(code for code, _ in pairs), affirm=texts, deny=("",) * len(texts))

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        embedded, prompts = paired_prompts(self.name, output, batch)
        asserted = prompts.asserted
        positive, negative = asserted == PRESENT, asserted == ABSENT
        if config.unmentioned == "negative":
            negative = negative | (asserted == UNKNOWN)
        logits = l2_normalize(output.image) @ l2_normalize(embedded[: len(prompts.findings)]).T / config.temperature
        from_image, from_text = facet_losses(logits, positive, negative)
        share = config.image_to_text
        return Losses(
            share * from_image + (1 - share) * from_text, {"image_to_text": from_image, "text_to_image": from_text}
        )


def facet_losses(logits: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return this rank's shares of both directions' means over rows, and over columns, that have a positive; else 0.

    `logits` [B, M]; `positive`, `negative` [B, M] bool. Pairs that are neither are left out.
    """
    world = distributed.world()
    weight = positive.to(logits.dtype)
    seen = logits.masked_fill(~(positive | negative), MASKED)
    by_row = torch.logsumexp(seen, 1) - (weight * logits).sum(1) / weight.sum(1).clamp(min=1)
    from_image = mean_over_ranks(by_row, positive.any(1))
    per_text = distributed.sum_over_ranks(weight.sum(0))
    shown = per_text > 0
    over_images = over_ranks(torch.logsumexp(seen, 0)).masked_fill(~shown, 0.0).sum()
    pull = (weight * logits / per_text.clamp(min=1)).sum()
    from_text = (over_images - world * pull) / shown.sum().clamp(min=1)
    return from_image, from_text
