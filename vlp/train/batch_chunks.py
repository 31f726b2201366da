"""Cutting a batch into chunks of rows, and joining the chunks' outputs as if the batch had never been cut. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlp.batch import Batch, ModelOutput
from vlp.needs.base import value_of
from vlp.needs.rows import axes_of, take


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """Return `count` chunks of equally many consecutive rows, each a batch in its own right.

    Token tensors keep the batch's padding, so that a chunk's outputs are those of its rows in the batch.
    """
    rows, left = divmod(len(batch), count)
    if left:
        raise ValueError(f"a batch of {len(batch)} rows does not divide into {count} chunks")
    return [take(batch, slice(start, start + rows)) for start in range(0, len(batch), rows)]


def merge_outputs(
    outputs: Sequence[ModelOutput], chunks: Sequence[Batch], whole: Batch, needs: Iterable[str] = ()
) -> ModelOutput:
    """Return the output of `whole` from those of its chunks, in order; what belongs to no row is taken from the first.

    Ragged outputs go back to the batch's own order; word tensors, as wide as their chunk's longest text, are padded to
    the widest. `needs`: those of the model.
    """
    found = [output.tensors() for output in outputs]
    axes = axes_of(needs)
    pieces: dict[str, Any] = {}
    for name in {name: None for tensors in found for name in tensors}:
        axis = axes.get(name, "batch")
        if axis is None:
            continue
        pieces[name] = _cat([tensors.get(name) for tensors in found])
        if axis != "batch" and (ragged := value_of(whole, axis)) is not None:
            pieces[name] = pieces[name][ragged.joined_order(len(chunks[0]))]
    return replace(outputs[0], **pieces)


def _cat(pieces: Sequence[Tensor | None]) -> Tensor:
    found = [piece for piece in pieces if piece is not None]
    if len(found) != len(pieces):
        raise ValueError("some chunks of a batch have an output that others lack: a tower must not decide by the rows")
    if found[0].ndim == 1:
        return torch.cat(found)
    width = max(int(piece.shape[1]) for piece in found)
    widened = [pad(piece, [0, 0] * (piece.ndim - 2) + [0, width - int(piece.shape[1])]) for piece in found]
    return torch.cat(widened)
