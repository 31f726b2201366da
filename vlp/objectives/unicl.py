"""Label-aware contrast: samples with the same findings are positives of each other.

Yang et al., *Unified Contrastive Learning in Image-Text-Label Space* (UniCL), CVPR 2022 (arXiv 2204.03610);
Silva-Rodríguez et al., *A Foundation Language-Image Model of the Retina* (FLAIR), Medical Image Analysis 2025
(arXiv 2308.07898): the same loss.
"""

from __future__ import annotations

import math
from typing import Literal

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import ConfigError, config

from .base import Objective, Scale, as_scalar, l2_normalize, objectives
from .functional.info_nce import info_nce
from .functional.positives import PositiveRelation, RankRows, label_relation


@config
class UniClConfig:
    by: Literal["labels", "category"] = "labels"
    match: Literal["same", "overlap"] = "same"
    form: Literal["mean", "sum"] = "mean"
    scale: Scale = 1 / 0.07


@objectives.register("label_aware")
class UniCl(Objective[UniClConfig]):
    """`L_i = -(1/|P(i)|) sum_{k in P(i)} log softmax_j(s S_ij)[k]`, both directions, mean over rows, averaged.

    `by: labels` takes as P(i) the samples with the same set of present findings in `Batch.labels`, or with `match: overlap`
    all that share one, weighted by the Jaccard index of the sets (ours: neither paper has multi-label images).
    `by: category` compares `Batch.extras["category"]` [B] int64: as in FLAIR one of an image's labels, drawn anew at each
    access (our loader draws among the present ones of `data.labels`; 0 is none). A sample without a label is a positive of
    itself only; with all labels distinct this is `clip`. Scale s is learned and starts at 1 / 0.07. `form: sum` sums over
    rows and directions instead, as UniCL's paper writes it.
    """

    def __init__(self, config: UniClConfig, dim: int) -> None:
        super().__init__(config, dim)
        if config.by == "category" and config.match == "overlap":
            raise ConfigError("match: overlap compares sets of findings: use it with by: labels")
        self.needs = frozenset({"logit_scale", "labels" if config.by == "labels" else "extras.category"})
        self.scale_init = (math.log(config.scale), None)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        rows = RankRows.of(batch, even=self.training)
        if config.by == "labels":
            related = label_relation(batch, rows, overlap=config.match == "overlap")
        else:
            category = batch.extras["category"].reshape(-1, 1).long()
            related = PositiveRelation(rows, ids=rows.gather(category))
        to_text, to_image = info_nce(
            l2_normalize(output.image), l2_normalize(output.text), as_scalar(output.logit_scale), rows, related
        )
        total = (to_text + to_image) / 2 if config.form == "mean" else rows.total * (to_text + to_image)
        return Losses(total, {"image_to_text": to_text, "text_to_image": to_image})
