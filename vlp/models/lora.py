"""Low-rank adapters on a tower's linear layers, through peft, and their merging into plain weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from torch import nn

from vlp.core.config import ConfigError
from vlp.core.registry import did_you_mean

from .towers.base import Adapter, Tower, with_inner

if TYPE_CHECKING:
    from .dual_encoder import DualEncoder


def add_lora(tower: Tower, adapter: Adapter, where: str) -> list[str]:
    """Put adapters beside the tower's linear layers, in place; returns the layers' names.

    Raises ConfigError when peft is not installed, or when no layer has one of the names in `adapter.targets`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError(f"{where}.adapter needs peft: install vlp with the extra `lora`") from None
    # exactly nn.Linear: torch's attention reads the weights of its own projection past any wrapper
    linear = [name for name, module in tower.named_modules() if type(module) is nn.Linear]
    chosen = [
        name
        for name in linear
        if not adapter.targets or any(name == end or name.endswith("." + end) for end in adapter.targets)
    ]
    if not chosen:
        ends = {name.rpartition(".")[2] for name in linear}
        near = did_you_mean(adapter.targets[0], ends) if adapter.targets else ": the tower has no linear layer"
        raise ConfigError(f"{where}.adapter.targets: no linear layer of this tower fits {list(adapter.targets)}{near}")
    options = LoraConfig(
        r=adapter.r, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=chosen, bias="none"
    )
    inject_adapter_in_model(options, tower)
    return chosen


def add_lora_to_towers(model: DualEncoder) -> None:
    """Put adapters into the towers whose configuration asks for them."""
    for name, tower in with_inner(model.towers).items():
        if tower.config.adapter is not None:
            add_lora(tower, tower.config.adapter, f"model.{name}")


def merge_lora(model: DualEncoder) -> DualEncoder:
    """Return the model with adapters added into the weights that they stand beside; itself when it has none."""
    if all(tower.config.adapter is None for tower in with_inner(model.towers).values()):
        return model
    model = copy.deepcopy(model)
    for tower in with_inner(model.towers).values():
        for name, module in list(tower.named_modules()):
            if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
                _merge(tower, name, module)
        tower.config = dataclasses.replace(tower.config, adapter=None)
    return model


def _merge(tower: nn.Module, name: str, layer: Any) -> None:
    layer.merge(safe_merge=True)
    parent, _, last = name.rpartition(".")
    setattr(tower.get_submodule(parent), last, layer.get_base_layer())
