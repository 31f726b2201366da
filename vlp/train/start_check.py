"""What the first batch must show before a fresh run begins: different texts have different vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlp.core import distributed
from vlp.core.config import ConfigError

from .batch_chunks import split_batch

if TYPE_CHECKING:
    from vlp.batch import Batch

    from .engines.base import Engine

ALIKE = 1e-5
"""Largest difference, as a share of the vectors' length, at which texts count as having one vector."""


@torch.no_grad()
def check_vectors(engine: Engine, batch: Batch, chunks: int) -> None:
    """Raise ConfigError on every rank where all the different texts of a rank's first rows have one vector. Collective.

    A tower that pools at a token which sees no other trains without an error and learns nothing. `chunks` is what the batch is
    cut into for memory; only the first is embedded.
    """
    part = split_batch(batch, chunks)[0]
    device = part.image.device
    was_training = engine.module.training
    engine.module.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        text = engine.embed(part).text.float()
    engine.module.train(was_training)
    different = len({tuple(row) for row in part.text.ids.tolist()})
    if distributed.agree(different > 1 and has_one_vector(text)):
        raise ConfigError(
            "model.text: the different texts of the first batch have one vector, so nothing can be learnt of them. Look at the "
            "tower's pooling (model.text.pooling, or pool_type of open_clip): it may take a token that sees none of the others"
        )


def has_one_vector(vectors: Tensor) -> bool:
    """Return whether rows [B, D] are all alike, up to rounding."""
    spread = (vectors - vectors[:1]).abs().amax()
    return bool(spread <= ALIKE * vectors.abs().amax())
