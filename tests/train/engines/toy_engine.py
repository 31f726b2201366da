"""An engine of one's own in one file: the torch engine, which leaves out the steps whose gradient is too large."""

from vlp.train.engines.base import StepReport, clip_gradients
from vlp.train.engines.torch import TorchEngine


class CarefulEngine(TorchEngine):
    """Skips an update whose gradient has a norm above `largest`."""

    largest = 1e6

    def step(self, lr_scale: float) -> StepReport:
        norm = clip_gradients(list(self.module.parameters()), 0)
        return super().step(lr_scale if norm <= self.largest else 0.0)
