"""The engine that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..optimizer import OptimConfig
from .base import Engine, EngineConfig
from .sync_batch_norm import share_statistics
from .torch import TorchEngine

if TYPE_CHECKING:
    from ..train_step import TrainStep


def build_engine(step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> Engine:
    """Return the engine that a recipe asks for, with `step` moved to `device` and wrapped."""
    share_statistics(step)
    if config.compile:
        step.model.compile()
    engine: Engine
    if config.kind == "deepspeed":
        from .deepspeed import DeepSpeedEngine

        engine = DeepSpeedEngine(step, optim, config, device)
    else:
        engine = TorchEngine(step, optim, config, device)
    return engine
