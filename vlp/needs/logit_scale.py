"""The learned scale and bias of logits."""

from __future__ import annotations

from vlp.batch import Batch, ModelOutput

from .base import Features, Model, Need, needs


@needs.register("logit_scale")
class LogitScale(Need):
    """`ModelOutput.logit_scale` (1,), the exponential of the model's parameter."""

    hint = "build the model with the objectives' scale_init"
    uses = frozenset({"logit_scale"})
    axis = None

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        assert model.logit_scale is not None
        output.logit_scale = model.logit_scale.exp()


@needs.register("logit_bias")
class LogitBias(LogitScale):
    """`ModelOutput.logit_bias` (1,)."""

    uses = frozenset({"logit_bias"})

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        output.logit_bias = model.logit_bias
