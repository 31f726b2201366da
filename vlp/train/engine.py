"""Engines: the only place that knows how the one module is spread over processes. Here: plain torch.

One process, DDP, or FSDP2 (`shard: true`). Every engine does AdamW in fp32, whatever the forward computes in, and keeps
its state under the same names, so that a run can be resumed under another engine or number of processes:
`param.NAME`, `buffer.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Unpack

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import dist
from ..config import ConfigError, config
from ..types import Batch, Losses, ModelOutput
from .batch_norm import share_statistics
from .optim import OptimConfig, bounded_parameters, build_optimizer, parameter_groups, set_learning_rate
from .state import read_state, write_state

if TYPE_CHECKING:
    from .step import Chunk, TrainStep

Part = Literal["model", "objectives"]
"""What `TrainStep` holds."""


@config
class EngineConfig:
    """How the step is spread over processes and in which precision.

    `torch`: DDP, or with `shard` FSDP2. `deepspeed`: ZeRO stage `zero`, `offload` of the optimiser to the CPU, and
    `extra`, a JSON file of DeepSpeed keys of one's own. `precision: auto` is bf16 on a GPU that has it and fp32 elsewhere
    (bf16 on a CPU is 25 times slower, and fp16 there is for tests); fp16 is not for `zero` 1 to 3. `timeout_minutes` bounds
    every collective. `compile` hands the model to torch.compile. To trade compute for memory, see the towers' own
    `checkpointing`, and `train.accumulate`.
    """

    kind: Literal["torch", "deepspeed"] = "torch"
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


class Engine(Protocol):
    """What the loop asks of an engine. All methods are collective: every rank calls them, in the same order."""

    module: TrainStep
    precision: str

    def forward(self, batch: Batch, progress: float, **chunk: Unpack[Chunk]) -> Losses:
        """Run `TrainStep.forward`."""
        ...

    def embed(self, batch: Batch) -> ModelOutput:
        """Run the model alone."""
        ...

    def backward(self, loss: Tensor, is_scaled: bool = False) -> None:
        """Add the gradients of a loss; `is_scaled`: it was built from gradients that carry fp16's loss scale already."""
        ...

    def accumulating(self) -> Any:
        """Return a context for several forward-backward pairs before one `step`."""
        ...

    def step(self, share: float) -> StepReport:
        """Average over ranks, clip, and update with `share` of the learning rate.

        A gradient that overflows in fp16 updates nothing; in other precisions one that is not finite spoils the
        parameters, which the loop finds before it saves them.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write parameters and optimiser state."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` of any engine at any number of ranks wrote."""
        ...

    def weights(self, part: Part = "model") -> dict[str, Tensor]:
        """Return the full fp32 state dict of the model or of the objectives on rank 0, on the CPU; {} elsewhere."""
        ...

    def scalars(self) -> dict[str, float]:
        """Return small numbers that belong to the state (fp16's loss scale)."""
        ...

    def set_scalars(self, values: dict[str, float]) -> None: ...


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


def build_engine(step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> Engine:
    """Return the engine that a recipe asks for, with `step` moved to `device` and wrapped."""
    share_statistics(step)
    if config.compile:
        step.model.compile()
    engine: Engine
    if config.kind == "deepspeed":
        from .engine_deepspeed import DeepSpeedEngine

        engine = DeepSpeedEngine(step, optim, config, device)
    else:
        engine = TorchEngine(step, optim, config, device)
    return engine


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the towers' repeated blocks: outermost lists of at least two trainable modules of one class."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        members = list(module)
        if (
            len(members) < 2
            or len({type(one) for one in members}) > 1
            or not any(True for _ in members[0].parameters())
        ):
            continue
        found += members
        inside.update(child for member in members for child in member.modules())
    return found


class TorchEngine:
    """One process, DDP, or FSDP2 over all processes."""

    def __init__(self, step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        self.module = step.to(device)
        self.device, self.config, self.optim = device, config, optim
        self.precision = resolve_precision(config, device)
        self.is_sharded = config.shard and dist.is_distributed()
        self.is_ddp = dist.is_distributed() and not config.shard
        self._is_accumulating = False
        self._is_unreduced = False
        self.wrapped: nn.Module = self._wrap()
        self.groups = parameter_groups(step, optim)
        self.optimizer = build_optimizer(self.groups, optim)
        self.bounded = bounded_parameters(step)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def _wrap(self) -> nn.Module:
        if self.is_sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            for parameter in self.module.parameters():  # it cannot cut channels-last ones
                parameter.data = parameter.data.contiguous()
            mesh = init_device_mesh(self.device.type, (dist.world(),))
            for block in blocks(self.module.model):
                fully_shard(block, mesh=mesh)
            fully_shard(self.module, mesh=mesh)
            return self.module
        if self.is_ddp:
            # mae or medslip alone never look at the whole report, and a tower may have parts that nothing uses: DDP
            # has to look for parameters without a gradient, or it stops at the second step.
            return nn.parallel.DistributedDataParallel(
                self.module, find_unused_parameters=True, gradient_as_bucket_view=True
            )
        return self.module

    def forward(self, batch: Batch, progress: float, **chunk: Unpack[Chunk]) -> Losses:
        with autocast(self.precision, self.device):
            total, parts = self.wrapped(batch, progress, **chunk)
        return Losses(total, parts)

    def embed(self, batch: Batch) -> ModelOutput:
        with autocast(self.precision, self.device):
            output: ModelOutput = self.wrapped(batch, embed=True)
        return output

    def backward(self, loss: Tensor, is_scaled: bool = False) -> None:
        scaled: Any = loss if is_scaled else self.scaler.scale(loss)
        scaled.backward()

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Hold back DDP's reduction: `step` averages the sums. FSDP2 adds up reduced shards by itself."""
        if not self.is_ddp:
            yield
            return
        assert isinstance(self.wrapped, nn.parallel.DistributedDataParallel)
        with self.wrapped.no_sync():
            yield
        self._is_unreduced = True

    def step(self, share: float) -> StepReport:
        if self._is_unreduced:
            average_gradients(list(self.module.parameters()))
            self._is_unreduced = False
        lr = set_learning_rate(self.optimizer, self.optim, share)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(list(self.module.parameters()), self.optim.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for parameter, low, high in self.bounded:
            own = parameter.detach()
            (own.to_local() if isinstance(own, DTensor) else own).clamp_(low, high)
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(lr, norm)

    def save(self, folder: Path) -> None:
        write_state(self._state(), folder)

    def _state(self) -> dict[str, Tensor]:
        state = {f"param.{name}": value.detach() for name, value in self.module.named_parameters()}
        state.update({f"buffer.{name}": value for name, value in self._buffers().items()})
        for name, parameter in self._trained().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = value
        return state

    def _buffers(self) -> dict[str, Tensor]:
        kept = self.module.state_dict().keys()
        return {name: value for name, value in self.module.named_buffers() if name in kept}

    def _trained(self) -> dict[str, nn.Parameter]:
        named = [zip(group["names"], group["params"], strict=True) for group in self.groups]
        return {name: parameter for pairs in named for name, parameter in pairs}

    def load(self, folder: Path) -> None:
        state: dict[str, Tensor] = {f"param.{name}": value.detach() for name, value in self.module.named_parameters()}
        state.update({f"buffer.{name}": value for name, value in self._buffers().items()})
        for name, parameter in self._trained().items():
            # Fused AdamW counts on the parameter's device, the plain one on the CPU.
            place = parameter.device if self.optimizer.defaults["fused"] else "cpu"
            count = torch.zeros((), dtype=torch.float32, device=place)
            state[f"step.{name}"] = count
            for key in ("exp_avg", "exp_avg_sq"):
                state[f"{key}.{name}"] = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
        present = read_state(state, folder)
        for name, parameter in self._trained().items():
            if f"step.{name}" in present:
                self.optimizer.state[parameter] = {
                    key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def weights(self, part: Part = "model") -> dict[str, Tensor]:
        module = self.module.get_submodule(part)
        if self.is_sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            full: dict[str, Any] = dict(get_model_state_dict(module, options=options))
        else:
            full = module.state_dict() if dist.is_main() else {}
        return {name: value.detach().cpu() for name, value in full.items()} if dist.is_main() else {}

    def scalars(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.scaler.state_dict().items()}

    def set_scalars(self, values: dict[str, float]) -> None:
        if self.scaler.is_enabled() and values:
            counts = ("growth_interval", "_growth_tracker")
            state = {name: int(value) if name in counts else value for name, value in values.items()}
            self.scaler.load_state_dict(state)


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down to the norm `largest`, 0 = leave them as they are; return the norm they had. Collective."""
    if largest > 0:
        norm: Any = nn.utils.clip_grad_norm_(parameters, largest)
    else:
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    return norm.detach()  # type: ignore[no-any-return]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over ranks in a few large pieces; one that no rank has stays None, one that some lack counts as 0."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = dist.agree_each([parameter.grad is not None for parameter in trained])
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
        flat = dist.sum_over_ranks(torch.cat([grad.reshape(-1) for grad in bucket])) / dist.world()
        for grad, piece in zip(bucket, torch.split(flat, [grad.numel() for grad in bucket]), strict=True):
            grad.copy_(piece.view_as(grad))
