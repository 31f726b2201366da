"""Gradients of one batch, in one piece or in chunks that need less memory.

Plain accumulation averages the losses of the chunks; it is only right for objectives that look at one row at a time. A
contrastive loss needs every row at once: cached-embedding accumulation (GradCache, Gao et al. 2021, arXiv:2101.06983)
first embeds all chunks without a graph, computes the whole batch's loss on the embeddings, then repeats each chunk's
forward with a graph and pushes the embeddings' gradients through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core.config import ConfigError
from vlp.needs.rows import take

from .random_state import set_torch_states, torch_states
from .train_step import tensors

if TYPE_CHECKING:
    from .engines.base import Engine


def check_accumulation(chunks: int, is_cached: bool, is_coupled: bool) -> None:
    """Raise ConfigError for plain accumulation of a loss that couples the rows of a batch: it would be another loss."""
    if chunks > 1 and is_coupled and not is_cached:
        raise ConfigError(
            f"train.accumulate={chunks}: these objectives compare the rows of a batch with one another, so losses of chunks "
            "do not add up to the loss of the batch; set train.cached_embeddings=true, whose gradients do"
        )


def check_batch(rows: int, is_coupled: bool) -> None:
    """Raise ConfigError for a batch of one row where the loss compares rows with one another."""
    if rows < 2 and is_coupled:
        raise ConfigError(
            f"data.batch_size: these objectives compare the rows of a batch with one another, and {rows} row has no other: "
            "give at least 2"
        )


def accumulate_gradients(engine: Engine, batch: Batch, progress: float, chunks: int, is_cached: bool) -> Losses:
    """Add the gradients of a batch's loss to the parameters and return the loss; `engine.step` comes next."""
    if chunks == 1:
        losses = engine.forward(batch, progress)
        engine.backward(losses.total)
        return losses
    with engine.accumulating():
        if is_cached:
            return _cached(engine, batch, progress, chunks)
        return _plain(engine, batch, progress, chunks)


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """Return `count` chunks of equally many consecutive rows, each a batch in its own right.

    Token tensors keep the batch's padding, so that a chunk's outputs are those of its rows in the batch.
    """
    rows, left = divmod(len(batch), count)
    if left:
        raise ValueError(f"a batch of {len(batch)} rows does not divide into {count} chunks")
    return [take(batch, slice(start, start + rows)) for start in range(0, len(batch), rows)]


def _plain(engine: Engine, batch: Batch, progress: float, chunks: int) -> Losses:
    each = []
    for chunk in split_batch(batch, chunks):
        losses = engine.forward(chunk, progress)
        engine.backward(losses.total / chunks)
        each.append(losses)
    mean = torch.stack([losses.total.detach() for losses in each]).mean()
    parts = {name: torch.stack([losses.parts[name] for losses in each]).mean() for name in each[0].parts}
    return Losses(mean, parts)


def _cached(engine: Engine, batch: Batch, progress: float, count: int) -> Losses:
    """Return the whole batch's loss after adding its gradients chunk by chunk.

    The first chunk keeps its graph through the loss, so it is computed once and the others twice. Dropout is replayed:
    each second forward starts from the random state of the first.
    """
    first, *others = split_batch(batch, count)
    # Prompts are no row's: the first chunk encodes them for all.
    others = [replace(chunk, prompts=None) for chunk in others]
    with torch.no_grad():
        states, embedded = zip(*((torch_states(), engine.embed(chunk)) for chunk in others), strict=True)
    cached = [_with_each(output, lambda value: value.detach().requires_grad_()) for output in embedded]
    losses = engine.forward(first, progress, whole=[batch, first, *others], cached=cached)
    engine.backward(losses.total)
    after = torch_states()
    for chunk, state, output in zip(others, states, cached, strict=True):
        set_torch_states(state)
        # None where the loss does not use an output
        replay = engine.forward(chunk, progress, gradients=_with_each(output, lambda value: value.grad))
        engine.backward(replay.total, is_scaled=True)
    set_torch_states(after)
    return losses


def _with_each(output: ModelOutput, change: Callable[[torch.Tensor], torch.Tensor | None]) -> ModelOutput:
    """Return an output with each tensor that can carry a gradient changed."""
    changed: dict[str, Any] = {name: change(value) for name, value in tensors(output).items()}
    return replace(output, **changed)
