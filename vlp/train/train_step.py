"""The one module that is ever wrapped: model and objectives behind a single forward.

Objectives may own parameters, and scales leave the model through its output; because both run inside this forward, every
gradient passes the wrapper (DDP, FSDP, DeepSpeed) and is averaged like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vlp.batch import Batch, Losses, ModelOutput
from vlp.needs.base import value_of
from vlp.needs.rows import axes_of


class Chunk(TypedDict, total=False):
    """What `TrainStep.forward` is told of a chunk of a batch in cached-embedding accumulation (`vlp.train.grad_cache`).

    With `whole` = [batch, chunks...] it is given the first chunk, and `cached` are the outputs of the others: the loss is
    the whole batch's. With `gradients` = d loss / d output of a chunk, the total is a scalar whose gradients are that
    chunk's share of the whole batch's.
    """

    whole: Sequence[Batch]
    cached: Sequence[ModelOutput]
    gradients: ModelOutput


class TrainStep(nn.Module):
    """A dual encoder and its objectives as one module.

    Losses leave as a plain pair (total, parts), because FSDP and ZeRO-3 find tensors in tuples and dicts only.
    """

    def __init__(self, model: nn.Module, objectives: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives

    def forward(
        self, batch: Batch, progress: float = 0.0, embed: bool = False, **chunk: Unpack[Chunk]
    ) -> tuple[Tensor, dict[str, Tensor]] | ModelOutput:
        """Return (total loss, its parts) of a batch; `progress` is the share of the run that is done.

        `embed`: return the model's output without a loss. `chunk`: the batch is a part of one, see `Chunk`.
        """
        output: ModelOutput = self.model(batch)
        if embed:
            return output
        if "gradients" in chunk:
            return inner_product(output, chunk["gradients"]), {}
        if "whole" in chunk:
            batch, *chunks = chunk["whole"]
            needs = cast("frozenset[str]", self.objectives.needs)
            output = merge_outputs([output, *chunk["cached"]], chunks, batch, needs)
        losses: Losses = self.objectives(output, batch, progress)
        parts = {name: part.detach() for name, part in losses.parts.items()}
        if output.logit_scale is not None:
            parts["logit_scale"] = output.logit_scale.detach().reshape(())
        return losses.total, parts


def tensors(output: ModelOutput) -> dict[str, Tensor]:
    """Return the floating tensors of an output by name, those that can carry a gradient."""
    return {name: value for name, value in output.tensors().items() if value.is_floating_point()}


def inner_product(output: ModelOutput, gradients: ModelOutput) -> Tensor:
    """Return sum(output * gradients), whose derivative by the output is `gradients`."""
    weights = tensors(gradients)
    total = output.image.new_zeros(())
    for name, value in tensors(output).items():
        if name in weights:
            total = total + (value * weights[name]).sum()
    return total


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
