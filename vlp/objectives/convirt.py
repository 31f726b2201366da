"""ConVIRT: the two-directional contrastive loss with a fixed temperature.

Zhang, Jiang, Miura, Manning, Langlotz, *Contrastive Learning of Medical Visual Representations from Paired Images and
Text*, MLHC 2022 (arXiv 2010.00747).
"""

from __future__ import annotations

import torch

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import config

from .base import Objective, Positive, Share, l2_normalize, objectives
from .functional.info_nce import info_nce
from .functional.positives import Positives, RankRows, needs_of, relation


@config
class ConVirtConfig:
    temperature: Positive = 0.1
    image_to_text: Share = 0.75
    positives: Positives = "diagonal"


@objectives.register("convirt")
class ConVirt(Objective[ConVirtConfig]):
    """`L = mean_i [ λ l_i(image->text) + (1-λ) l_i(text->image) ]`, l the cross-entropy of cosines over temperature τ.

    τ = 0.1 is fixed and λ = 0.75 weighs the image-to-text direction, as in the paper; λ = 0.5 is the CLIP loss at scale
    10. The paper's batch is one process's; here negatives come from all ranks.
    """

    def __init__(self, config: ConVirtConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.needs = needs_of(config.positives)

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config = self.config
        rows = RankRows.of(batch, even=self.training)
        scale = torch.ones((), dtype=output.image.dtype, device=output.image.device) / config.temperature
        to_text, to_image = info_nce(
            l2_normalize(output.image), l2_normalize(output.text), scale, rows, relation(config.positives, batch, rows)
        )
        share = config.image_to_text
        return Losses(share * to_text + (1 - share) * to_image, {"image_to_text": to_text, "text_to_image": to_image})
