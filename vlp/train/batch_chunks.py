"""Cutting a batch into chunks of rows, and joining the chunks' outputs as if the batch had never been cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlp.batch import Batch, ModelOutput
from vlp.needs.rows import OF_NO_ROW, take


def cut(batch: Batch, count: int) -> list[Batch]:
    """Return `count` chunks of equally many consecutive rows, each a batch in its own right.

    Token tensors keep the batch's padding, so that a chunk's outputs are those of its rows in the batch.
    """
    rows, left = divmod(len(batch), count)
    if left:
        raise ValueError(f"a batch of {len(batch)} rows does not divide into {count} chunks")
    return [take(batch, slice(start, start + rows)) for start in range(0, len(batch), rows)]


def without_prompts(batch: Batch) -> Batch:
    """Return the batch without its prompt pairs: they belong to no row, so one chunk's model pass encodes them for all."""
    return replace(batch, prompts=None)


def join(outputs: Sequence[ModelOutput], chunks: Sequence[Batch], whole: Batch) -> ModelOutput:
    """Return the output of `whole` from those of its chunks, in order; prompts and scales are taken from the first.

    Phrases go back to the batch's own order; word tensors, as wide as their chunk's longest text, are padded to the widest.
    """
    found = [output.tensors() for output in outputs]
    names = {name: None for tensors in found for name in tensors if name not in OF_NO_ROW}
    pieces: dict[str, Any] = {name: _cat([tensors.get(name) for tensors in found]) for name in names}
    joined = replace(outputs[0], **pieces)
    if joined.phrases is not None and whole.phrases is not None:
        rows = len(chunks[0])
        chunk = whole.phrases.owner // rows
        parts = [(chunk == index).nonzero().squeeze(1) for index in range(len(chunks))]
        joined.phrases = joined.phrases[torch.argsort(torch.cat(parts))]
    return joined


def _cat(pieces: Sequence[Tensor | None]) -> Tensor:
    found = [piece for piece in pieces if piece is not None]
    if len(found) != len(pieces):
        raise ValueError("some chunks of a batch have an output that others lack: a tower must not decide by the rows")
    if found[0].ndim == 1:
        return torch.cat(found)
    width = max(int(piece.shape[1]) for piece in found)
    widened = [pad(piece, [0, 0] * (piece.ndim - 2) + [0, width - int(piece.shape[1])]) for piece in found]
    return torch.cat(widened)
