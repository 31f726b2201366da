"""Some rows of a batch, and of what the model returned for it: each a batch, or an output, in its own right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from vlp.batch import Batch, ModelOutput, Phrases, Prompts, Spans, Tokens

OF_NO_ROW = ("prompts", "logit_scale", "logit_bias")
"""Fields of an output that belong to no row."""


def take(batch: Batch, rows: slice | Sequence[int]) -> Batch:
    """Return rows of a batch, with the mentions and phrases that belong to them.

    Token tensors keep the batch's padding, so that the rows' outputs are those that they have in the batch.
    """
    numbers = list(range(len(batch))[rows] if isinstance(rows, slice) else rows)
    chosen = _index(rows, batch.image)
    place = torch.full((len(batch),), -1, device=batch.image.device)
    place[chosen] = torch.arange(len(numbers), device=batch.image.device)

    def part(value: Any) -> Any:
        """Return what belongs to the rows: of what has one entry a row, those."""
        if isinstance(value, Tokens):
            return value.take(chosen)
        if isinstance(value, Prompts):
            return replace(value, asserted=value.asserted[chosen])
        if isinstance(value, Spans):
            own = _owned(place, value.owner)
            each = {name: getattr(value, name)[own] for name in ("start", "end", "code", "assertion")}
            return replace(value, owner=place[value.owner[own]], **each)
        if isinstance(value, Phrases):
            own = _owned(place, value.owner)
            return Phrases(tokens=value.tokens.take(own), owner=place[value.owner[own]], code=value.code[own])
        if isinstance(value, dict):
            return {name: part(one) for name, one in value.items()}
        if isinstance(value, list) and len(value) == len(batch):
            return [value[number] for number in numbers]
        return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == len(batch) else value

    return replace(batch, **{item.name: part(getattr(batch, item.name)) for item in fields(batch)})


def with_text(output: ModelOutput, batch: Batch) -> tuple[ModelOutput, Batch]:
    """Return the rows of an output and of its batch that have a text."""
    if batch.has_text is None or all(batch.has_text):
        return output, batch
    rows = [row for row, has in enumerate(batch.has_text) if has]
    chosen = _index(rows, output.image)
    kept = (*OF_NO_ROW, "phrases")
    found: dict[str, Any] = {name: value[chosen] for name, value in output.tensors().items() if name not in kept}
    if output.phrases is not None and batch.phrases is not None:
        place = torch.full((len(batch),), -1, device=chosen.device)
        place[chosen] = chosen
        found["phrases"] = output.phrases[_owned(place, batch.phrases.owner)]
    return replace(output, **found), take(batch, rows)


def _index(rows: slice | Sequence[int], like: Tensor) -> Any:
    return rows if isinstance(rows, slice) else torch.tensor(list(rows), dtype=torch.int64, device=like.device)


def _owned(place: Tensor, owner: Tensor) -> Tensor:
    return (place[owner] >= 0).nonzero().squeeze(1)
