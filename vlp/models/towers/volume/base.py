"""What a tower of volumes is, and what several of them do: channels, cells as a sequence, tracing without computing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlp.core.config import ConfigError
from vlp.modalities.volume.spec import VolumeSpec

from ..base import ImageTower


class VolumeTower(ImageTower):
    """An encoder of volumes: floats [B, channels, D, H, W], normalised, a channel per window, to `Features`.

    Axes are z (to the head), y (to the front), x (to the patient's right). The cells [B, P, patch_width] are those of
    `grid`, plane by plane and row by row.
    """

    takes = "volume"


def require_whole_patches(spec: VolumeSpec, patch: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Return how many patches a volume has along each axis; raises ConfigError where they do not fill it."""
    if min(patch) < 1 or any(side % part for side, part in zip(spec.size, patch, strict=True)):
        near = [max(1, round(side / part)) * part for side, part in zip(spec.size, patch, strict=True) if part > 0]
        raise ConfigError(
            f"model.image: volume.size {list(spec.size)} is no multiple of {what} {list(patch)}; the nearest is {near}"
        )
    return tuple(side // part for side, part in zip(spec.size, patch, strict=True))


def require_channels(spec: VolumeSpec, channels: int, where: str = "model.image.channels") -> None:
    """Raise ConfigError where a network of so many channels cannot take a volume's windows: one is repeated, others fit."""
    if spec.channels not in (1, channels):
        raise ConfigError(
            f"{where}: the network takes {channels} channels, volume.windows makes {spec.channels} "
            f"({', '.join(spec.windows)}): set channels to {spec.channels}, or choose 1 or {channels} windows"
        )


def to_channels(volume: Tensor, channels: int) -> Tensor:
    """Return a volume [B, C, D, H, W] with a network's number of channels: a single one is repeated."""
    return volume.expand(-1, channels, -1, -1, -1) if volume.shape[1] == 1 else volume


def to_cells(features: Tensor) -> Tensor:
    """Return a map [B, C, D, H, W] as cells [B, P, C]."""
    return features.flatten(2).transpose(1, 2)


def run_on_meta(module: nn.Module, *inputs: Any) -> Any:
    """Return what a module makes of inputs on torch's meta device: shapes and gradients alone, no arithmetic.

    Its hooks are called. A whole volume costs a large network tens of seconds and gigabytes.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    bare = {name: value.detach().to("meta").requires_grad_(value.requires_grad) for name, value in tensors.items()}
    return torch.func.functional_call(module, bare, inputs)


def recompute(module: Callable[..., Any], *inputs: Any) -> Any:
    """Call a module so that the backward pass computes its activations again; plainly where no gradient is asked for."""
    if not torch.is_grad_enabled():
        return module(*inputs)
    from torch.utils.checkpoint import checkpoint

    return checkpoint(module, *inputs, use_reentrant=False)
