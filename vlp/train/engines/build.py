"""The engine that a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vlp.core.config import find

from ..optimizer import OptimConfig
from .base import Engine, EngineConfig, engines
from .sync_batch_norm import share_statistics

if TYPE_CHECKING:
    from ..train_step import TrainStep


def build_engine(step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> Engine:
    """Return the engine that a recipe asks for, with `step` moved to `device` and wrapped; raises ConfigError."""
    cls = find(engines, config.kind, "engine.kind")
    share_statistics(step)
    if config.compile:
        step.model.compile()
    return cls(step, optim, config, device)
