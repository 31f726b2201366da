"""MedCLIP: images and texts match as far as their findings do, paired or not.

Wang, Wu, Agarwal, Sun, *MedCLIP: Contrastive Learning from Unpaired Medical Images and Text*, EMNLP 2022
(arXiv 2210.10163).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config
from vlp.sample import ABSENT, PRESENT

from .base import Objective, Scale, as_scalar, l2_normalize, objectives
from .functional.info_nce import over_ranks
from .functional.positives import RankRows


@config
class MedClipConfig:
    similarity: Literal["dot", "cosine"] = "dot"
    absent: float = -1.0
    scale: Scale = 1 / 0.07
    text_labels: Literal["sample", "mentions"] = "sample"
    views: Literal[1, 2] = 1


@objectives.register("medclip")
class MedClip(Objective[MedClipConfig]):
    """`L = ½ [CE(softmax_rows(R), s S) + CE(softmax_rows(R^T), (s S)^T)]`, `R = y_image y_text^T`, S cosines.

    Label vectors hold 1 for present, `absent` for absent and 0 for uncertain or not stated: the published code's
    convention with absent = -1. `text_labels: sample` gives a text its image's labels, `mentions` what the part of the
    report that is shown says of each (`Batch.extras["text_labels"]`; a random sentence then stands for what is in it, as in
    the paper). `similarity: dot` is the code's R, `cosine` the paper's. Scale s is learned and starts at 1 / 0.07. With
    `views: 2` each report is shown in a second random part as well (`ModelOutput.text_view`; the paper alters words
    instead), and the loss is the mean of both views'.
    """

    def __init__(self, config: MedClipConfig, dim: int) -> None:
        super().__init__(config, dim)
        wanted = {"labels", "logit_scale"}
        wanted |= {"extras.text_labels"} if config.text_labels == "mentions" else set()
        self.needs = frozenset(wanted | ({"text_view"} if config.views == 2 else set()))
        self.scale_init = (math.log(config.scale), None)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        assert batch.labels is not None
        rows = RankRows.of(batch, even=self.training)
        text_labels = batch.extras["text_labels"] if config.text_labels == "mentions" else batch.labels
        image_labels = self._vectors(batch.labels, output.image)
        relevance = image_labels @ rows.gather(self._vectors(text_labels, output.image)).T
        views = [output.text]
        if config.views == 2:
            assert output.text_view is not None
            views.append(output.text_view)
        image, scale = l2_normalize(output.image), as_scalar(output.logit_scale)
        losses = [matching_loss(scale * (image @ rows.gather(l2_normalize(view)).T), relevance, rows) for view in views]
        return Losses(torch.stack(losses).mean())

    def _vectors(self, labels: Tensor, like: Tensor) -> Tensor:
        config = self.config
        vectors = (labels == PRESENT).to(like.dtype) + config.absent * (labels == ABSENT).to(like.dtype)
        return l2_normalize(vectors) if config.similarity == "cosine" else vectors


def matching_loss(logits: Tensor, relevance: Tensor, rows: RankRows) -> Tensor:
    """Return this rank's share of the mean of both directions' cross-entropies with soft targets; both are [b, N]."""
    by_row = torch.logsumexp(logits, 1) - (torch.softmax(relevance, 1) * logits).sum(1)
    target = (relevance - over_ranks(torch.logsumexp(relevance, 0))).exp()
    own = rows.own
    by_column = over_ranks(torch.logsumexp(logits, 0))[own].sum() - (target * logits).sum()
    return rows.share(by_row.sum() + by_column) / 2
