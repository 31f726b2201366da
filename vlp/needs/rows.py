"""Some rows of a batch, and of what the model returned for it: each a batch, or an output, in its own right. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from vlp.batch import Batch, ModelOutput, Prompts, Ragged, Tokens

from .base import find_needs, needs, value_of


def take(batch: Batch, rows: slice | Sequence[int]) -> Batch:
    """Return rows of a batch, with the mentions and phrases that belong to them.

    Token tensors keep the batch's padding, so that the rows' outputs are those that they have in the batch.
    """
    numbers = list(range(len(batch))[rows] if isinstance(rows, slice) else rows)
    chosen = _index(rows, batch.image)

    def part(value: Any) -> Any:
        """Return what belongs to the rows: of what has one entry a row, those."""
        if isinstance(value, Tokens):
            return value.take(chosen)
        if isinstance(value, Prompts):
            return replace(value, asserted=value.asserted[chosen])
        if isinstance(value, Ragged):
            return value.take(chosen, len(batch))
        if isinstance(value, dict):
            return {name: part(inner) for name, inner in value.items()}
        if isinstance(value, list) and len(value) == len(batch):
            return [value[number] for number in numbers]
        return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == len(batch) else value

    return replace(batch, **{item.name: part(getattr(batch, item.name)) for item in fields(batch)})


def with_text(output: ModelOutput, batch: Batch, names: Iterable[str] = ()) -> tuple[ModelOutput, Batch]:
    """Return the rows of an output and of its batch that have a text; `names`: the needs that are read."""
    if batch.has_text is None or all(batch.has_text):
        return output, batch
    rows = [row for row, has in enumerate(batch.has_text) if has]
    chosen = _index(rows, output.image)
    axes = axes_of(names)
    found: dict[str, Any] = {}
    for key, value in output.tensors().items():
        axis = axes.get(key, "batch")
        if axis == "batch":
            found[key] = value[chosen]
        elif axis is not None and (ragged := value_of(batch, axis)) is not None:
            found[key] = value[ragged.entries(chosen, len(batch))[0]]
    return replace(output, **found), take(batch, rows)


def axes_of(names: Iterable[str]) -> dict[str, str | None]:
    """Return what the rows of output tensors stand for (`Need.axis`), of all our needs and of those called `names`."""
    return {need.field: need.axis for need in find_needs({*needs, *names})}


def _index(rows: slice | Sequence[int], like: Tensor) -> Any:
    return rows if isinstance(rows, slice) else torch.tensor(list(rows), dtype=torch.int64, device=like.device)
