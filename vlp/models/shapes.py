"""What a tower of volumes does to shapes and gradients, found without arithmetic, on torch's meta device.

A backward of one whole volume through a large network takes minutes and tens of gigabytes, on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .towers.base import Features, ImageTower
from .towers.volume.base import run_on_meta


class StandIn:
    """Takes a tower's place for a forward and backward of the rest of a model: gives zeros of the features' shapes."""

    def __init__(self, tower: ImageTower) -> None:
        self.tower = tower
        self.probe = _Probe(tower)
        self.calls: list[tuple[Tensor, Features]] = []

    def __call__(self, image: Tensor, patches: bool = False) -> Features:
        bare = image.detach().to("meta")
        with torch.no_grad():
            found = run_on_meta(self.probe, bare, patches, None)
        pooled, tokens = (
            None if part is None else torch.zeros(part.shape, requires_grad=torch.is_grad_enabled())
            for part in found[:2]
        )
        assert pooled is not None
        given = Features(pooled, tokens, None if found.attention is None else torch.zeros(found.attention.shape))
        self.calls.append((bare, given))
        return given

    def unreached(self) -> set[str]:
        """Return the trained parameters of the tower that none of the features that the rest used depends on."""
        unreached = {name for name, value in self.tower.named_parameters() if value.requires_grad}
        for image, given in self.calls:
            used = tuple(part is not None and part.grad is not None for part in given[:2])
            with torch.enable_grad():
                unreached &= run_on_meta(self.probe, image, given.patch_tokens is not None, used)
        return unreached


@contextmanager
def standing_in(tower: ImageTower) -> Iterator[StandIn]:
    """Have a stand-in answer in a tower's place, within the block."""
    stand_in = StandIn(tower)
    tower.__dict__["forward"] = stand_in
    try:
        yield stand_in
    finally:
        del tower.__dict__["forward"]


class _Probe(nn.Module):
    """A tower's features, or, where it is told which of them are `used`, the names of the parameters that those do not need."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image: Tensor, patches: bool, used: tuple[bool, ...] | None) -> Any:
        found: Features = type(self.tower).forward(self.tower, image, patches)
        if used is None:
            return found
        own = {name: value for name, value in self.tower.named_parameters() if value.requires_grad}
        parts = [part.sum() for part, is_used in zip(found[:2], used, strict=True) if is_used and part is not None]
        reached = [part for part in parts if part.requires_grad]
        if not own or not reached:
            return set(own)
        grads = torch.autograd.grad(torch.stack(reached).sum(), list(own.values()), allow_unused=True)
        return {name for name, grad in zip(own, grads, strict=True) if grad is None}
