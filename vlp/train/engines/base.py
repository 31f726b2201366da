"""What an engine is, and what all engines share: precision, clipping, averaging."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import ConfigError, config, find
from vlp.core.registry import Registry

from ..optimizer import OptimConfig
from .sync_batch_norm import share_statistics

if TYPE_CHECKING:
    from ..train_step import Chunk, TrainStep


Part = Literal["model", "objectives"]
"""What `TrainStep` holds."""


@config
class EngineConfig:
    """How the step is spread over processes and in which precision.

    `torch`: DDP, or with `shard` FSDP2. `deepspeed`: ZeRO stage `zero`, `offload` of the optimiser to the CPU, and
    `extra`, a JSON file of DeepSpeed keys of one's own. `my_package.my_module:MyEngine`: one's own.

    `precision: auto` is bf16 on a GPU that has it and fp32 elsewhere (bf16 on a CPU is 25 times slower, and fp16 there is
    for tests); fp16 is not for `zero` 1 to 3. `timeout_minutes` bounds every collective. `compile` hands the model to
    torch.compile. To trade compute for memory, see the towers' own `checkpointing`, and `train.accumulate`.
    """

    kind: str = "torch"
    shard: bool = False
    zero: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "cpu"] = "none"
    extra: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    timeout_minutes: float = 10.0
    compile: bool = False


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did: the rate, and the gradient's norm before clipping [].

    The norm stays on its device: looking at it in every step would empty a GPU's queue. One that is not finite means in
    fp16 that nothing was updated.
    """

    lr: float
    grad_norm: Tensor


class Engine(ABC):
    """What the loop asks of an engine. All methods are collective: every rank calls them, in the same order."""

    def __init__(self, step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        self.module = step.to(device)
        self.device, self.config, self.optim = device, config, optim
        self.precision = resolve_precision(config, device)

    @abstractmethod
    def forward(self, batch: Batch, progress: float, **chunk: Unpack[Chunk]) -> Losses:
        """Run `TrainStep.forward`."""

    @abstractmethod
    def embed(self, batch: Batch) -> ModelOutput:
        """Run the model alone."""

    @abstractmethod
    def backward(self, loss: Tensor, is_scaled: bool = False) -> None:
        """Add the gradients of a loss; `is_scaled`: it was built from gradients that carry fp16's loss scale already."""

    @abstractmethod
    def accumulating(self) -> Any:
        """Return a context for several forward-backward pairs before one `step`."""

    @abstractmethod
    def step(self, lr_scale: float) -> StepReport:
        """Average over ranks, clip, and update with `lr_scale` times the learning rate.

        A gradient that overflows in fp16 updates nothing; in other precisions one that is not finite spoils the
        parameters, which the loop finds before it saves them.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write parameters and optimiser state."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` of any engine at any number of ranks wrote."""

    @abstractmethod
    def weights(self, part: Part = "model") -> dict[str, Tensor]:
        """Return the full fp32 state dict of the model or of the objectives on rank 0, on the CPU; {} elsewhere."""

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """Return small numbers that belong to the state (fp16's loss scale)."""

    @abstractmethod
    def set_scalars(self, values: dict[str, float]) -> None:
        """Take over what `scalars` returned before the run was resumed."""

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers that are part of the state, as they are called there."""
        kept = self.module.state_dict().keys()
        return {f"buffer.{name}": value for name, value in self.module.named_buffers() if name in kept}


engines = Registry[type[Engine]]("engine", package="vlp.train.engines")


def build_engine(step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> Engine:
    """Return the engine that a recipe asks for, with `step` moved to `device` and wrapped; raises ConfigError."""
    cls = find(engines, config.kind, "engine.kind")
    share_statistics(step)
    if config.compile:
        step.model.compile()
    return cls(step, optim, config, device)


def resolve_precision(config: EngineConfig, device: torch.device) -> str:
    """Return fp32, bf16 or fp16; raises ConfigError for fp16 under ZeRO 1 to 3, and under deepspeed on a CPU.

    Over fp32 parameters these stages keep a loss scale of their own, 1: they clip, and report the norm of, gradients that
    still carry autocast's, and an overflow leaves that scale where it is, so that every later step overflows too
    (deepspeed 0.19.8, `step` of stage_1_and_2.py and stage3.py).
    """
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if config.precision == "fp16" and config.kind == "deepspeed":
        if config.zero > 0:
            raise ConfigError(
                "engine.precision: deepspeed's ZeRO 1 to 3 cannot train fp32 weights in fp16, they clip gradients that "
                "still carry its loss scale; use bf16, engine.zero=0, or engine.kind=torch with engine.shard=true"
            )
        if device.type == "cpu":
            raise ConfigError(
                "engine.precision: fp16 under deepspeed needs a GPU, its loss scaler knows no other; "
                "on a CPU use engine.kind=torch for fp16, or auto, fp32 or bf16"
            )
    return config.precision


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which the towers run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down to the norm `largest`, 0 = leave them as they are; return the norm they had. Collective."""
    if largest > 0:
        norm: Any = nn.utils.clip_grad_norm_(parameters, largest)
    else:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    return norm.detach()  # type: ignore[no-any-return]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over ranks in a few large pieces; one that no rank has stays None, one that some lack counts as 0."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = distributed.agree_each([parameter.grad is not None for parameter in trained])
    bucket: list[Tensor] = []
    size = 0
    for parameter, is_used in zip(trained, used, strict=True):
        if is_used:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            bucket.append(parameter.grad)
            size += parameter.grad.numel()
        if size > 25_000_000:
            _average(bucket)
            bucket, size = [], 0
    _average(bucket)


def _average(bucket: list[Tensor]) -> None:
    if bucket:
        flat = distributed.sum_over_ranks(torch.cat([grad.reshape(-1) for grad in bucket])) / distributed.world()
        for grad, piece in zip(bucket, torch.split(flat, [grad.numel() for grad in bucket]), strict=True):
            grad.copy_(piece.view_as(grad))
