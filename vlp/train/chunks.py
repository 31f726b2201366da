"""Cutting a batch into chunks of rows, and joining the chunks' outputs as if the batch had never been cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..types import Batch, ModelOutput, Phrases, Prompts, Spans, Tokens


def cut(batch: Batch, count: int) -> list[Batch]:
    """Return `count` chunks of equally many consecutive rows, each a batch in its own right.

    Token tensors keep the batch's padding, so that a chunk's outputs are those of its rows in the batch.
    """
    rows, left = divmod(len(batch), count)
    if left:
        raise ValueError(f"a batch of {len(batch)} rows does not divide into {count} chunks")
    return [_rows(batch, start, start + rows) for start in range(0, len(batch), rows)]


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return replace(
        batch, **{item.name: _part(getattr(batch, item.name), len(batch), start, stop) for item in fields(batch)}
    )


def _part(value: Any, rows: int, start: int, stop: int) -> Any:
    """Return what belongs to rows `[start, stop)` of a field of the batch: of whatever has one entry a row, those."""
    if isinstance(value, Tokens):
        return value.take(slice(start, stop))
    if isinstance(value, Spans):
        return _spans(value, start, stop)
    if isinstance(value, Phrases):
        return _phrases(value, start, stop)
    if isinstance(value, Prompts):
        return replace(value, asserted=value.asserted[start:stop])
    if isinstance(value, dict):
        return {name: _part(one, rows, start, stop) for name, one in value.items()}
    is_by_row = isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)
    return value[start:stop] if is_by_row and len(value) == rows else value


def _owned(owner: Tensor, start: int, stop: int) -> Tensor:
    return ((owner >= start) & (owner < stop)).nonzero().squeeze(1)


def _spans(spans: Spans, start: int, stop: int) -> Spans:
    index = _owned(spans.owner, start, stop)
    return replace(
        spans,
        start=spans.start[index],
        end=spans.end[index],
        owner=spans.owner[index] - start,
        code=spans.code[index],
        assertion=spans.assertion[index],
    )


def _phrases(phrases: Phrases, start: int, stop: int) -> Phrases:
    index = _owned(phrases.owner, start, stop)
    tokens = phrases.tokens.take(index)
    return Phrases(tokens=tokens, owner=phrases.owner[index] - start, code=phrases.code[index])


def without_prompts(batch: Batch) -> Batch:
    """Return the batch without its prompt pairs: they belong to no row, so one chunk's model pass encodes them for all."""
    return replace(batch, prompts=None)


OF_NO_ROW = ("grid", "prompts", "logit_scale", "logit_bias")
"""Fields of an output that the first chunk has for all."""


def join(outputs: Sequence[ModelOutput], chunks: Sequence[Batch], whole: Batch) -> ModelOutput:
    """Return the output of `whole` from those of its chunks, in order; prompts and scales are taken from the first.

    Phrases go back to the batch's own order; word tensors, as wide as their chunk's longest text, are padded to the widest.
    """
    names = [item.name for item in fields(ModelOutput) if item.name not in OF_NO_ROW]
    pieces: dict[str, Any] = {name: _cat([getattr(one, name) for one in outputs]) for name in names}
    joined = replace(outputs[0], **pieces)
    if joined.phrases is not None and whole.phrases is not None:
        rows = len(chunks[0])
        parts = [_owned(whole.phrases.owner, rows * index, rows * (index + 1)) for index in range(len(chunks))]
        joined.phrases = joined.phrases[torch.argsort(torch.cat(parts))]
    return joined


def _cat(pieces: Sequence[Tensor | None]) -> Tensor | None:
    found = [piece for piece in pieces if piece is not None]
    if not found:
        return None
    if len(found) != len(pieces):
        raise ValueError("some chunks of a batch have an output that others lack: a tower must not decide by the rows")
    if found[0].ndim == 1:
        return torch.cat(found)
    width = max(int(piece.shape[1]) for piece in found)
    widened = [pad(piece, [0, 0] * (piece.ndim - 2) + [0, width - int(piece.shape[1])]) for piece in found]
    return torch.cat(widened)
