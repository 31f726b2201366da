"""AdamW, which parameters belong to which of its groups, and the learning rate as a function of the samples seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean


@config
class OptimConfig:
    """AdamW and its schedule.

    `clip` is the largest norm of the whole gradient, 0 = no clipping. `multipliers` scales the rate of parameters whose
    name starts with a prefix, the longest that fits: `{image_tower: 0.1, text_tower: 0.1}` for pretrained towers,
    `objectives: 2` for what objectives own. `warmup_samples` rise linearly from 0; then `cosine` falls to `final` of the
    rate at the end of the run, `constant` stays.
    """

    lr: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    clip: float = 1.0
    warmup_samples: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    final: float = 0.0
    multipliers: Mapping[str, float] = field(default_factory=dict)


UNDECAYED = ("bias", "logit_scale", "pos_embed", "position", "cls_token", "class_embedding", "reg_token", "mask_token")
"""Parts of a parameter's own name that exempt it from weight decay, whatever its shape."""


def lr_scale(config: OptimConfig, samples: int, total: int) -> float:
    """Return the share of `lr` to use for the step that reaches `samples` seen, of `total` in the run."""
    warmup = min(config.warmup_samples, total)
    if samples < warmup:
        return samples / warmup
    if config.schedule == "constant" or total <= warmup:
        return 1.0
    share = min(1.0, (samples - warmup) / (total - warmup))
    return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * share))


def is_decayed(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Return whether weight decay pulls a parameter to zero: weights of matrices and kernels, nothing else."""
    own = name.rpartition(".")[2]
    if parameter.ndim <= 1 or isinstance(module, nn.Embedding):
        return False
    return not any(part in own for part in UNDECAYED)


def multiplier(name: str, multipliers: Mapping[str, float]) -> float:
    """Return the rate multiplier of the longest prefix (in whole dotted parts, `model.` left out) that fits a name."""
    short = name.removeprefix("model.")
    fits = [prefix for prefix in multipliers if short == prefix or short.startswith(prefix + ".")]
    return multipliers[max(fits, key=len)] if fits else 1.0


def parameter_groups(step: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups of the trainable parameters of `step`, one per (decay, multiplier), in a stable order.

    Each holds `params`, `names`, `weight_decay`, `lr` and `multiplier`. Raises ConfigError for a prefix in `multipliers`
    that fits no parameter.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in step.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = step.get_submodule(name.rpartition(".")[0])
        decayed, scale = is_decayed(name, parameter, owner), multiplier(name, config.multipliers)
        decay = config.weight_decay if decayed else 0.0
        group = groups.setdefault(
            (decayed, scale),
            {"params": [], "names": [], "weight_decay": decay, "lr": config.lr * scale, "multiplier": scale},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    shorts = [name.removeprefix("model.") for name, _ in step.named_parameters()]
    for prefix in config.multipliers:
        if not any(short == prefix or short.startswith(prefix + ".") for short in shorts):
            heads = {".".join(short.split(".")[: prefix.count(".") + 1]) for short in shorts}
            raise ConfigError(f"optim.multipliers.{prefix}: no parameter starts with it{did_you_mean(prefix, heads)}")
    if not groups:
        raise ConfigError("model: every parameter is frozen, there is nothing to train")
    return list(groups.values())


@runtime_checkable
class Bounded(Protocol):
    """A module some of whose own parameters are kept in a range: a model's and an objective's learnt scales."""

    def bounds(self) -> Mapping[str, tuple[float, float]]: ...


def bounded_parameters(step: nn.Module) -> list[tuple[nn.Parameter, float, float]]:
    """Return the trained parameters that an engine brings back into their range after each step, with its ends.

    After the step, not in the forward: there a parameter at its end would have no gradient and never leave it.
    """
    found = []
    for module in step.modules():
        if isinstance(module, Bounded):
            own = dict(module.named_parameters(recurse=False))
            ranges = module.bounds().items()
            found += [(own[name], low, high) for name, (low, high) in ranges if own[name].requires_grad]
    return found


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`; fused (3.6x faster on CPU), foreach where fused cannot be."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    plain = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    return torch.optim.AdamW(plain, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None)


def set_learning_rate(optimizer: Any, config: OptimConfig, scale: float) -> float:
    """Give every group its rate for the coming step and return the rate of an unscaled one."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * scale * group["multiplier"]
    return config.lr * scale
