"""Assertion prompts: what the report says is there, or is not, decides between two sentences about the image.

No paper's: the training counterpart of zero-shot classification by prompt pairs (CheXzero's, Tiu et al., Nature BME 2022),
with the report's own assertions, found by the text extractor, as targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Batch, Losses, ModelOutput, PromptSpec
from vlp.core.config import ConfigError, config
from vlp.sample import ABSENT, PRESENT

from .base import Objective, Positive, l2_normalize, mean_over_ranks, objectives, paired_prompts


@config
class AssertionConfig:
    findings: Mapping[str, str]
    templates: tuple[tuple[str, str], ...] = (("there is {}", "there is no {}"),)
    temperature: Positive = 0.1


@objectives.register("assertion")
class Assertion(Objective[AssertionConfig]):
    """`L = mean log(1 + exp(-y (a - d) / τ))` over the pairs (image, finding) that the batch's reports assert.

    a and d are the image's cosines with "there is X" and "there is no X", y is 1 where the report says present and -1 where
    it says absent: a two-way softmax. What a report does not mention, or leaves uncertain, is left out; the mean runs over
    the asserted pairs of all ranks. `findings` maps the codes of the shards' concepts to their names in the prompts;
    `templates` are pairs (affirming, denying), all used: a few drawn for each batch save next to nothing and teach far less
    (on synthetic radiographs, AUROC .84 with 3 of 12 against .91).
    """

    needs = frozenset({"prompts"})
    batch_coupled = True  # through the number of asserted pairs, which differs between parts of a batch

    def __init__(self, config: AssertionConfig, dim: int) -> None:
        super().__init__(config, dim)
        if not config.findings or not config.templates:
            raise ConfigError("findings, templates: at least one of each is needed")
        for template in (template for pair in config.templates for template in pair):
            if template.count("{}") != 1:
                raise ConfigError(f"templates: {template!r} must hold one {{}}, the place of the finding's name")

    def prompt_spec(self) -> PromptSpec:
        config = self.config
        pairs = [(code, name, *pair) for pair in config.templates for code, name in config.findings.items()]
        return PromptSpec(
            findings=tuple(code for code, *_ in pairs),
            affirm=tuple(affirm.format(name) for _, name, affirm, _ in pairs),
            deny=tuple(deny.format(name) for _, name, _, deny in pairs),
        )

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        embedded, prompts = paired_prompts(self.name, output, batch)
        logits = l2_normalize(output.image) @ l2_normalize(embedded).T / self.config.temperature
        loss = asserted_loss(logits, prompts.asserted)
        return Losses(loss, {"global": loss})


def asserted_loss(logits: Tensor, asserted: Tensor) -> Tensor:
    """Return this rank's share of the mean two-way cross-entropy over asserted pairs; 0 where nothing is asserted.

    `logits` [B, 2F], first against the affirming then the denying prompts; `asserted` [B, F] int8.
    """
    affirm, deny = logits.chunk(2, dim=1)
    present, absent = asserted == PRESENT, asserted == ABSENT
    losses = F.softplus(torch.where(present, deny - affirm, affirm - deny))
    return mean_over_ranks(losses, present | absent)
