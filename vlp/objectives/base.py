"""What an objective is, how a recipe names it, and how several are added up.

An objective turns a `ModelOutput` and its `Batch` into a loss. It normalises, gathers over ranks and owns what
parameters it needs; it never sees the model, the optimiser or the step. With W processes each rank returns its share,
such that the mean over ranks is the loss of the whole batch, and data parallelism's averaged gradients are its gradients.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput, PromptSpec
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.core.registry import Registry
from vlp.needs import Need, find_needs

C = TypeVar("C")
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(ge=1, le=100)]
"""A start of a learned scale of logits: within what the optimiser keeps it in."""

SIDES = ("image", "text")
"""What an objective calls the two modalities that it compares."""


class Objective(nn.Module, Generic[C]):
    """A training loss: subclass `Objective[YourConfig]`, give it a `loss`, and register it under the name recipes use.

    `needs` names what must be in the output or the batch (registered in `vlp.needs`, of your own as "pkg.mod:Name", or an
    entry of `Batch.extras` as `extras.<name>`). `batch_coupled` is True when the loss of a batch is not the mean of the
    losses of its parts, so that gradient accumulation must go through cached embeddings. `needs_text` is True when it
    reads texts or what they say: it is given the rows that have one; it is False where images alone will do. `scale_init`
    is the start of the model's (log logit_scale, logit_bias) for objectives that use them. `progress` is the share of the
    training done, 0 to 1; one that looks at it sets `follows_progress`, as its run cannot be made longer. `between`: the two
    modalities that a recipe compares with it; the objective sees the first as `output.image`, the second as `output.text`.
    """

    Config: ClassVar[type[Any]]
    needs: frozenset[str] = frozenset()
    batch_coupled: bool = True
    needs_text: bool = True
    scale_init: tuple[float, float | None] | None = None
    progress: float = 0.0
    follows_progress: bool = False
    between: tuple[str, str] = SIDES
    name: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Take `Config` from the base: `class Clip(Objective[ClipConfig])`."""
        super().__init_subclass__(**options)
        declared = [get_args(base)[0] for base in cls.__dict__.get("__orig_bases__", ()) if get_args(base)]
        if declared:
            cls.Config = declared[0]

    def __init__(self, config: C, dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.name = self.name or type(self).__name__

    def prompt_spec(self) -> PromptSpec | None:
        """Return the prompt pairs that the loader shall put into `Batch.prompts`, None for none."""
        return None

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the range that each of the objective's own scales is kept in by the optimiser, by parameter name.

        A clamp in the forward would leave a scale that reaches its end without a gradient, for good.
        """
        return {}

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        """Return this rank's share of the loss; called in fp32 (or fp64) with autocast off and all needs present."""
        raise TypeError(f"{type(self).__name__} does not define loss(output, batch)")

    def forward(self, output: ModelOutput, batch: Batch) -> Losses:
        """Check the needs and return `loss`; called by `ObjectiveSum`. Raises ConfigError for a missing need."""
        self.check(output, batch)
        return self.loss(output, batch)

    @cached_property
    def _required(self) -> list[Need]:
        return [need for need in find_needs(self.needs) if not need.is_optional]

    def check(self, output: ModelOutput, batch: Batch) -> None:
        """Raise ConfigError naming the first need that the output or the batch does not hold, and how to get it."""
        for need in self._required:
            if need.find(output, batch) is None:
                raise ConfigError(
                    f"objective {self.name!r} needs {need.name}, but {need.place()} is missing: {need.hint}"
                )


objectives = Registry[type[Objective[Any]]]("objective", package="vlp.objectives")


class _L2Normalize(torch.autograd.Function):
    """Vectors over their lengths; keeps the inputs and one number a vector, and needs one temporary in the backward."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_(min=1e-6).reciprocal_()
        ctx.save_for_backward(vectors, inverse)
        return vectors * inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        vectors, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, vectors)[..., None] * inverse.square()
        result: Tensor = torch.addcmul(grad, vectors, along, value=-1).mul_(inverse)
        return result


def l2_normalize(vectors: Tensor) -> Tensor:
    """Scale vectors [..., D] to length 1; a zero vector stays zero, with a finite gradient."""
    result: Tensor = _L2Normalize.apply(vectors)
    return result


def mean_over_ranks(losses: Tensor, counted: Tensor) -> Tensor:
    """Return this rank's share of the mean of `losses` where `counted` (bool), over all ranks; 0 where nothing is."""
    total = distributed.sum_over_ranks(counted.sum().to(losses.dtype)).clamp(min=1)
    return losses.masked_fill(~counted, 0.0).sum() * (distributed.world() / total)


def as_scalar(parameter: Tensor | None) -> Tensor:
    """Return a (1,) parameter of the output as a 0-dim tensor that keeps its gradient."""
    assert parameter is not None  # Objective.check has seen it
    return parameter.reshape(())
