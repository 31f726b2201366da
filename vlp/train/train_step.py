"""The one module that is ever wrapped: model and objectives behind a single forward.

Objectives may own parameters, and scales leave the model through its output; because both run inside this forward, every
gradient passes the wrapper (DDP, FSDP, DeepSpeed) and is averaged like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack, cast

from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput

from .batch_chunks import merge_outputs


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
            full, *chunks = chunk["whole"]
            output, batch = (
                merge_outputs([output, *chunk["cached"]], chunks, full, cast("frozenset[str]", self.objectives.needs)),
                full,
            )
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
