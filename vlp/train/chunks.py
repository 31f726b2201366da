"""Cutting a batch into chunks of rows, and joining the chunks' outputs as if the batch had never been cut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlp.types import Batch, ModelOutput, Phrases, Prompts, Spans, Tokens


def cut(batch: Batch, count: int) -> list[Batch]:
    """Return `count` chunks of equally many consecutive rows, each a batch in its own right.

    Token tensors keep the batch's padding, so that a chunk's outputs are those of its rows in the batch.
    """
    rows, left = divmod(len(batch), count)
    if left:
        raise ValueError(f"a batch of {len(batch)} rows does not divide into {count} chunks")
    return [_rows(batch, start, start + rows) for start in range(0, len(batch), rows)]


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    extras = {
        name: value[start:stop] if value.ndim and len(value) == len(batch) else value
        for name, value in batch.extras.items()
    }
    return replace(
        batch,
        image=batch.image[start:stop],
        text=_tokens(batch.text, slice(start, stop)),
        group=batch.group[start:stop],
        keys=batch.keys[start:stop],
        labels=None if batch.labels is None else batch.labels[start:stop],
        spans=None if batch.spans is None else _spans(batch.spans, start, stop),
        phrases=None if batch.phrases is None else _phrases(batch.phrases, start, stop),
        prompts=None if batch.prompts is None else _prompts(batch.prompts, start, stop),
        extras=extras,
        sources=batch.sources[start:stop],
    )


def _tokens(tokens: Tokens, index: slice | Tensor) -> Tokens:
    sentences = None if tokens.sentences is None else tokens.sentences[index]
    return Tokens(ids=tokens.ids[index], mask=tokens.mask[index], words=tokens.words[index], sentences=sentences)


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
    tokens = _tokens(phrases.tokens, index)
    return Phrases(tokens=tokens, owner=phrases.owner[index] - start, code=phrases.code[index])


def _prompts(prompts: Prompts, start: int, stop: int) -> Prompts:
    return replace(prompts, asserted=prompts.asserted[start:stop])


def without_prompts(batch: Batch) -> Batch:
    """Return the batch without its prompt pairs: they belong to no row, so one chunk's model pass encodes them for all."""
    return replace(batch, prompts=None)


def join(outputs: Sequence[ModelOutput], chunks: Sequence[Batch], whole: Batch) -> ModelOutput:
    """Return the output of `whole` from those of its chunks, in order; prompts and scales are taken from the first.

    Phrases go back to the batch's own order; word tensors, as wide as their chunk's longest text, are padded to the widest.
    """
    first = outputs[0]
    joined = replace(
        first,
        image=torch.cat([one.image for one in outputs]),
        text=torch.cat([one.text for one in outputs]),
        patches=_cat([one.patches for one in outputs]),
        patch_attention=_cat([one.patch_attention for one in outputs]),
        words=_cat([one.words for one in outputs]),
        word_mask=_cat([one.word_mask for one in outputs]),
        word_attention=_cat([one.word_attention for one in outputs]),
        tokens=_cat([one.tokens for one in outputs]),
        phrases=_cat([one.phrases for one in outputs]),
    )
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
