"""DeepSpeed's ZeRO stages 0 to 3 as an engine, called directly: the only file that imports deepspeed.

AdamW is torch's, handed over ready-made; the forward runs under DeepSpeed's torch_autocast, so parameters, gradients'
accumulation and moments stay fp32 as in the torch engine. The state is written under the engine-neutral names of
`vlp.train.engines.torch`, gathered to rank 0 one parameter at a time: no conversion between stages, ranks or engines, ever.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Local, Losses, ModelOutput
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.core.untrusted import unique_pairs

from ..optimizer import OptimConfig, bounded_parameters, build_optimizer, parameter_groups, set_learning_rate
from .base import Engine, EngineConfig, Part, StepReport, clip_gradients, engines
from .state import read_state, write_state

if TYPE_CHECKING:
    from ..train_step import Chunk, TrainStep

MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_config(engine: EngineConfig, optim: OptimConfig, precision: str) -> dict[str, Any]:
    """Return DeepSpeed's JSON for an engine, the keys of `engine.extra` added; raises ConfigError for a key given twice."""
    zero: dict[str, Any] = {"stage": engine.zero}
    if engine.offload == "cpu":
        if engine.zero == 0:
            raise ConfigError(
                "engine.offload: cpu needs engine.zero 1, 2 or 3; stage 0 keeps the optimiser where it is"
            )
        zero["offload_optimizer"] = {"device": "cpu"}
    written: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # a formality: batches are ours, and so is the end of an accumulation
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Absent would mean 1.0. Stage 0 looks at the norm (`_clip`) only where there is a limit, if one never reached.
        "gradient_clipping": optim.clip or (math.inf if engine.zero == 0 else 0.0),
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
    }
    if precision != "fp32":
        name = {"bf16": "bfloat16", "fp16": "float16"}[precision]
        written["torch_autocast"] = {"enabled": True, "dtype": name}
    if engine.extra is None:
        return written
    path = Path(engine.extra)
    try:
        own = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_pairs)
    except FileNotFoundError:
        raise ConfigError(f"engine.extra: no such file: {path}") from None
    except ValueError as error:
        raise ConfigError(f"engine.extra: {path}: {error}") from None
    return _add(written, own, str(path), "")


def _add(written: Mapping[str, Any], own: Any, file: str, path: str) -> dict[str, Any]:
    if not isinstance(own, dict):
        raise ConfigError(f"engine.extra: {file}: expected a mapping{f' at {path}' if path else ''}")
    merged = dict(written)
    for key, value in own.items():
        here = f"{path}.{key}" if path else key
        if key not in written:
            merged[key] = value
        elif isinstance(written[key], Mapping):
            merged[key] = _add(written[key], value, file, here)
        else:
            raise ConfigError(
                f"engine.extra: {file}: {here} is given twice, the recipe sets it to {written[key]!r} (engine and optim)"
            )
    return merged


@engines.register("deepspeed")
class DeepSpeedEngine(Engine):
    """A `TrainStep` under `deepspeed.initialize`."""

    def __init__(self, step: TrainStep, optim: OptimConfig, config: EngineConfig, device: torch.device) -> None:
        super().__init__(step, optim, config, device)
        self.groups = parameter_groups(step, optim)
        self.names = list(step.named_parameters())
        self.trained = {name for group in self.groups for name in group["names"]}
        settings = deepspeed_config(config, optim, self.precision)
        self.library = _import(config.timeout_minutes)
        for parameter in step.parameters():  # it flattens them, and cannot even broadcast channels-last ones
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        optimizer = build_optimizer(self.groups, optim)
        self.engine: Any = self.library.initialize(
            model=step, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        self.bounded = bounded_parameters(step)
        self._norm = torch.tensor(math.nan)
        if config.zero == 0:
            self.engine.clip_fp32_gradients = self._clip

    @property
    def inner(self) -> Any:
        """Return torch's AdamW inside of DeepSpeed's optimiser."""
        return self.engine.optimizer if self.config.zero == 0 else self.engine.optimizer.optimizer

    # ------------------------------------------------------------------ forward and backward

    def forward(self, batch: Batch, progress: float, **chunk: Unpack[Chunk]) -> Losses:
        total, parts = self.engine(batch, progress, **chunk)
        return Losses(total, parts)

    def embed(self, batch: Batch) -> ModelOutput:
        return cast(ModelOutput, self.engine(batch, embed=True))

    def backward(self, loss: Tensor, is_scaled: bool = False) -> None:
        self.engine.backward(loss / self._scale() if is_scaled else loss, scale_wrt_gas=False)

    def _scale(self) -> float:
        """Return fp16's loss scale, by which DeepSpeed multiplies every loss; 1 in other precisions."""
        return float(self.engine.torch_autocast_z0_gradscaler.get_scale()) if self.precision == "fp16" else 1.0

    def accumulating(self) -> Any:
        """Do nothing: with managed_gradient_accumulation off, gradients add up until `step`."""
        return nullcontext()

    def _clip(self) -> None:
        """Clip at stage 0, where DeepSpeed would not tell the norm."""
        self._norm = clip_gradients(list(self.module.parameters()), self.optim.clip)

    def step(self, lr_scale: float) -> StepReport:
        lr = set_learning_rate(self.inner, self.optim, lr_scale)
        self.engine.step()
        for parameter, low, high in self.bounded:
            self._bound(parameter, low, high)
        found = self._norm if self.config.zero == 0 else self.engine.get_global_grad_norm()
        norm = torch.as_tensor(math.nan if found is None else found, dtype=torch.float32, device=self.device)
        return StepReport(lr, norm)

    def _bound(self, parameter: Any, low: float, high: float) -> None:
        """Bring a parameter back into its range, and the fp32 copy that the optimiser updates, each rank its own part."""
        parts = [parameter.data]
        if self.config.zero == 3:
            parts.append(parameter.ds_tensor.data)
            own = self.library.utils.safe_get_local_fp32_param(parameter).clamp(low, high)
            self.library.utils.safe_set_local_fp32_param(parameter, own)
        elif self.config.zero and parameter._hp_mapping is not None:
            parts.append(parameter._hp_mapping.hp_fragment.data)
        for part in parts:
            part.clamp_(low, high)

    # ------------------------------------------------------------------ state

    def save(self, folder: Path) -> None:
        state: dict[str, Tensor] = {}
        for name, parameter in self.names:
            state[f"param.{name}"] = self._whole(parameter)
            step = self._count(parameter) if name in self.trained else None
            if step is not None:
                state[f"step.{name}"] = torch.tensor(step, dtype=torch.float32)
                for key in MOMENTS:
                    state[f"{key}.{name}"] = self._moment(parameter, key)
            if not distributed.is_main():
                state.clear()
        if distributed.is_main():
            state |= self.buffers()
        write_state({name: value.detach().cpu() for name, value in state.items()}, folder)

    def load(self, folder: Path) -> None:
        state: dict[str, Tensor] = {}
        for name, parameter in self.names:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            state[f"param.{name}"] = torch.zeros(shape)
            if name in self.trained:
                state[f"step.{name}"] = torch.zeros(1)
                state.update({f"{key}.{name}": torch.zeros(shape) for key in MOMENTS})
        present = read_state(state | self.buffers(), folder)
        started = {name for name in self.trained if f"step.{name}" in present}
        self._start_moments({name: float(state[f"step.{name}"]) for name in started})
        for name, parameter in self.names:
            self._set_whole(parameter, state[f"param.{name}"].to(self.device), name in self.trained)
            for key in MOMENTS if name in started else ():
                self._set_moment(parameter, key, state[f"{key}.{name}"].to(self.device))

    def weights(self, part: Part = "model") -> dict[str, Tensor]:
        module, prefix = self.module.get_submodule(part), f"{part}."
        found = {}
        for name, parameter in self.names:
            if name.startswith(prefix):
                whole = self._whole(parameter)
                if distributed.is_main():
                    found[id(parameter)] = whole.cpu()
        if not distributed.is_main():
            return {}
        # Tied parameters have one name in `names` and several in a state dict; buffers only the latter has.
        full = {name: found[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}
        kept = module.state_dict().keys()
        full.update({name: value.cpu() for name, value in module.named_buffers() if name in kept})
        return full

    def scalars(self) -> dict[str, float]:
        return {"scale": self._scale()} if self.precision == "fp16" else {}

    def set_scalars(self, values: dict[str, float]) -> None:
        """Leave DeepSpeed's loss scale to find itself again: a few skipped steps, nothing else depends on it."""

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        """Return a parameter's full value. Collective at stage 3."""
        if self.config.zero < 3:
            return parameter.detach()
        with self.library.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _set_whole(self, parameter: nn.Parameter, value: Tensor, is_trained: bool) -> None:
        """Set the value, and the fp32 partition that the optimiser updates. Collective at stage 3."""
        if self.config.zero < 3:
            parameter.data.copy_(value)
            if self.config.zero and is_trained:
                self.library.utils.safe_set_full_fp32_param(parameter, value)
            return
        with self.library.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
        if is_trained:
            self.library.utils.safe_set_local_fp32_param(parameter, self._own_part(parameter, value))

    def _own_part(self, parameter: Any, value: Tensor) -> Tensor:
        """Return this rank's slice of a full tensor as stage 3 cuts it: flat, padded to equal slices."""
        size = parameter.ds_tensor.ds_numel
        flat = torch.nn.functional.pad(value.flatten(), (0, size * distributed.world() - value.numel()))
        return flat[distributed.rank() * size : (distributed.rank() + 1) * size]

    def _flats(self) -> list[Tensor]:
        """Return the flat fp32 partitions that stages 1 to 3 optimise, a list of this rank's."""
        name = "fp32_partitioned_groups_flat" if self.config.zero == 3 else "single_partition_of_fp32_groups"
        return cast("list[Tensor]", getattr(self.engine.optimizer, name))

    def _count(self, parameter: nn.Parameter) -> float | None:
        """Return AdamW's step count of a parameter, None before the first step. The flat partitions all count alike."""
        keys = [parameter] if self.config.zero == 0 else self._flats()
        counts = [float(self.inner.state[key]["step"]) for key in keys if "step" in self.inner.state.get(key, {})]
        return max(counts, default=None)

    def _moment(self, parameter: Any, key: str) -> Tensor:
        """Return a parameter's full moment. Collective at stages 1 to 3."""
        if self.config.zero == 0:
            return cast(Tensor, self.inner.state[parameter][key])
        if self.config.zero == 3:
            found: Tensor = self.library.utils.safe_get_full_optimizer_state(parameter, key)
            return found.reshape(parameter.ds_shape)
        whole = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.contiguous_format)
        fragment, here = self._fragment(parameter, key), whole.view(-1)
        if fragment is not None:
            here.narrow(0, fragment[1].start, fragment[1].numel).copy_(fragment[0])
        return distributed.sum_over_ranks(whole)

    def _fragment(self, parameter: Any, key: str) -> tuple[Tensor, Any] | None:
        """Return the piece of a moment that this rank holds at stages 1 and 2, and where in the parameter it belongs.

        DeepSpeed's own way to it knows the first group of parameters only: it is set up before the others have a moment.
        """
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flat, address = self._flats()[mapping.param_group_index], mapping.get_hp_fragment_address()
        return self.inner.state[flat][key].narrow(0, address.start, address.numel), mapping.lp_fragment_address

    def _start_moments(self, counts: Mapping[str, float]) -> None:
        """Make AdamW's state before its first step, so that it can be filled."""
        if not counts:
            return
        pairs: list[tuple[Tensor, float]]
        if self.config.zero == 0:
            pairs = [(parameter, counts[name]) for name, parameter in self.names if name in counts]
        else:
            # One count for a whole flat partition: exact unless a parameter began to train later than its neighbours.
            pairs = [(flat, max(counts.values())) for flat in self._flats()]
        for key, count in pairs:
            place = key.device if self.inner.defaults["fused"] else "cpu"
            step = torch.tensor(count, dtype=torch.float32, device=place)
            self.inner.state[key] = {"step": step, **{name: torch.zeros_like(key.detach()) for name in MOMENTS}}

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        if self.config.zero == 0:
            self.inner.state[parameter][key].copy_(value)
        elif self.config.zero == 3:
            self.library.utils.safe_set_local_optimizer_state(parameter, self._own_part(parameter, value), key)
        elif (fragment := self._fragment(parameter, key)) is not None:
            fragment[0].copy_(value.flatten().narrow(0, fragment[1].start, fragment[1].numel))


def _show_dataclasses_to_hooks() -> None:
    """Teach stage 3 that tensors may be in the fields of what model and objectives return and take.

    It fetches a module's parameters again for the backward through hooks on those tensors, and knows tuples and dicts only:
    without this, whatever an objective or the dual encoder owns itself has a wrong gradient, 0 or an error.
    """
    from deepspeed.runtime.zero import parameter_offload

    known: Any = parameter_offload.apply_to_tensors_only
    if getattr(known, "knows_dataclasses", False):
        return

    def apply(function: Any, value: Any, warning_msg_fn: Any = None) -> Any:
        if isinstance(value, (tuple, list)) and any(isinstance(inner, (ModelOutput, Losses)) for inner in value):
            return type(value)(apply(function, inner, warning_msg_fn) for inner in value)
        if isinstance(value, dict) and any(isinstance(inner, Local) for inner in value.values()):
            return {name: apply(function, inner) for name, inner in value.items()}
        if not isinstance(value, (ModelOutput, Losses, Local)):
            return known(function, value, None)
        for item in fields(value):
            setattr(value, item.name, apply(function, getattr(value, item.name)))
        return value

    apply.knows_dataclasses = True  # type: ignore[attr-defined]
    parameter_offload.apply_to_tensors_only = apply


def _import(timeout_minutes: float) -> Any:
    """Import deepspeed without its surprises, and give a single process the group that it insists on."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On a CPU it would compile a shared-memory collective for over a minute before the first step.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _show_dataclasses_to_hooks()
    if not distributed.is_distributed():
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        distributed.init(timeout_minutes)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, dist_init_required=False)
    return deepspeed
