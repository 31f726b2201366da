"""Pieces that objectives on patches share: pooling patch similarities into one per image, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Pool = Literal["max", "lse"]

HELD = 1 << 24
"""Values (64 MiB in fp32) above which they are made anew in the backward, chunk by chunk."""


def pooled_similarity(patches: Tensor, vectors: Tensor, pool: Pool, gamma: float) -> Tensor:
    """Return [B, T]: cosines of T unit vectors [T, D] with each image's unit patches [B, P, D], pooled over patches.

    `max` takes the best patch, `lse` is `log(mean_m exp(gamma cos_m)) / gamma`: between the mean (gamma 0) and the best
    (gamma infinite), so that several patches learn at a time. Chunks of images keep memory flat in B.
    """

    def pooled(some: Tensor, vectors: Tensor) -> Tensor:
        if pool == "max":
            return (some @ vectors.T).amax(1)
        scaled = some @ (gamma * vectors).T  # scaling the vectors spares two passes over [B, P, T]
        return (torch.logsumexp(scaled, 1) - math.log(some.shape[1])) / gamma

    return by_chunks(pooled, (patches,), (vectors,), held=patches.shape[0] * patches.shape[1] * vectors.shape[0])


def by_chunks(
    function: Callable[..., Tensor], rows: tuple[Tensor, ...], whole: tuple[Tensor, ...], held: int
) -> Tensor:
    """Return `function(*rows, *whole)`, in chunks of rows that are recomputed in the backward when it would hold too much.

    `held` counts the values that the function keeps for its backward over all rows; `function` treats rows alike and
    returns one result per row.
    """
    count = rows[0].shape[0]
    if held <= HELD or count <= 1:
        return function(*rows, *whole)
    step = max(1, int(count * HELD / held))
    pieces = [
        checkpoint(
            function,
            *(tensor[low : low + step] for tensor in rows),
            *whole,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for low in range(0, count, step)
    ]
    return torch.cat(pieces)
