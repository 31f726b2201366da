"""Plain torch: one process, DDP, or FSDP2 (`shard: true`).

Every engine does AdamW in fp32, whatever the forward computes in, and keeps its state under the same names, so that a run
can be resumed under another engine or number of processes: `param.NAME`, `buffer.NAME`, `exp_avg.NAME`,
`exp_avg_sq.NAME`, `step.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed

from ..optimizer import OptimConfig, bounded_parameters, build_optimizer, parameter_groups, set_learning_rate
from .base import Engine, EngineConfig, Part, StepReport, autocast, average_gradients, clip_gradients, engines
from .state import read_state, write_state

if TYPE_CHECKING:
    from ..train_step import Chunk, TrainStep


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
            or len({type(member) for member in members}) > 1
            or not any(True for _ in members[0].parameters())
        ):
            continue
        found += members
        inside.update(child for member in members for child in member.modules())
    return found


@engines.register("torch")
class TorchEngine(Engine):
    """One process, DDP, or FSDP2 over all processes."""

    def __init__(self, step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        super().__init__(step, optim, config, device)
        self.is_sharded = config.shard and distributed.is_distributed()
        self.is_ddp = distributed.is_distributed() and not config.shard
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
            mesh = init_device_mesh(self.device.type, (distributed.world(),))
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
            return cast(ModelOutput, self.wrapped(batch, embed=True))

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

    def step(self, lr_scale: float) -> StepReport:
        if self._is_unreduced:
            average_gradients(list(self.module.parameters()))
            self._is_unreduced = False
        lr = set_learning_rate(self.optimizer, self.optim, lr_scale)
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
        state |= self.buffers()
        for name, parameter in self._trained().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = value
        return state

    def _trained(self) -> dict[str, nn.Parameter]:
        named = [zip(group["names"], group["params"], strict=True) for group in self.groups]
        return {name: parameter for pairs in named for name, parameter in pairs}

    def load(self, folder: Path) -> None:
        for parameter in self._trained().values():
            # Fused AdamW counts on the parameter's device, the plain one on the CPU.
            place = parameter.device if self.optimizer.defaults["fused"] else "cpu"
            moments = {name: torch.zeros_like(parameter).detach() for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.zeros((), dtype=torch.float32, device=place), **moments}
        present = read_state(self._state(), folder)
        for name, parameter in self._trained().items():
            if f"step.{name}" not in present:  # it had no gradient yet
                del self.optimizer.state[parameter]

    def weights(self, part: Part = "model") -> dict[str, Tensor]:
        module = self.module.get_submodule(part)
        if self.is_sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            full: dict[str, Any] = dict(get_model_state_dict(module, options=options))
        else:
            full = module.state_dict() if distributed.is_main() else {}
        return {name: value.detach().cpu() for name, value in full.items()} if distributed.is_main() else {}

    def scalars(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.scaler.state_dict().items()}

    def set_scalars(self, values: dict[str, float]) -> None:
        if self.scaler.is_enabled() and values:
            counts = ("growth_interval", "_growth_tracker")
            state = {name: int(value) if name in counts else value for name, value in values.items()}
            self.scaler.load_state_dict(state)
