"""`python -m benchmarks.volume_towers`: what a tower of volumes costs on one thread, and what recomputation saves.

CPU seconds of a forward and of a training step, per volume, and the activations that a step keeps for its backward.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlp.modalities.volume.spec import VolumeSpec
from vlp.models.towers.base import ImageTower, build_image_tower

VIT_TINY = {"kind": "timm", "name": "vit_tiny_patch16_224"}
TOWERS: dict[str, dict[str, Any]] = {
    "patch_conv, 4 x 4 x 4": {"kind": "patch_conv"},
    "vit3d tiny, 8 x 16 x 16": {"kind": "vit3d", "name": "vit_tiny_patch16_224"},
    "slices of vit_tiny_patch16": {"kind": "slices", "tower": VIT_TINY},
    "slices of resnet10t": {"kind": "slices", "tower": {"kind": "timm", "name": "resnet10t"}},
    "inflated resnet18": {"kind": "inflated", "name": "resnet18"},
    "monai swin_unetr, embed_dim 24": {"kind": "monai", "options": {"embed_dim": 24}},
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one volume: seconds of a forward and of a step, MiB kept for the backward."""

    forward: float
    step: float
    kept: float


def main() -> None:
    """Print a line for each tower, without and with recomputation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volume_towers", description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=[32, 96, 96], metavar=("D", "H", "W"))
    parser.add_argument("--only", choices=sorted(TOWERS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'x'.join(map(str, options.size))} voxels, 3 windows, one thread, CPU seconds a volume")
    print(
        "| tower | parameters | forward | train step | kept | recomputing: train step | kept |\n|---|---|---|---|---|---|---|"
    )
    for name in options.only or TOWERS:
        millions, plain, again = measure(TOWERS[name], tuple(options.size))
        ours = f"{again.step:.2f} s | {again.kept:.0f} MiB" if again else "- | -"
        print(
            f"| {name} | {millions:.1f} M | {plain.forward:.2f} s | {plain.step:.2f} s | {plain.kept:.0f} MiB | {ours} |",
            flush=True,
        )


def measure(tree: dict[str, Any], size: tuple[int, ...]) -> tuple[float, Cost, Cost | None]:
    """Return a tower's millions of parameters, and its costs without and with recomputation (None where it cannot)."""
    spec = VolumeSpec(size=size)  # type: ignore[arg-type]
    costs = []
    for checkpointing in (False, True):
        tower = build_image_tower({**tree, "checkpointing": checkpointing}, spec)
        if checkpointing and tree["kind"] == "patch_conv":
            break
        tower.apply_freezing("model.image")
        costs.append(_cost(tower.train(), size))
    return sum(value.numel() for value in tower.parameters()) / 1e6, costs[0], costs[1] if len(costs) > 1 else None


def _cost(tower: ImageTower, size: tuple[int, ...]) -> Cost:
    volume = torch.randn(2, tower.channels, *size)
    with torch.no_grad():
        tower(volume)
        start = time.process_time()
        tower(volume)
        forward = time.process_time() - start
    start = time.process_time()
    kept = _step(tower, volume)
    return Cost(forward / 2, (time.process_time() - start) / 2, kept / 2 / 2**20)


def _step(tower: ImageTower, volume: Tensor) -> int:
    """Run a forward and a backward; return the bytes kept in between."""
    own = {value.untyped_storage().data_ptr() for value in tower.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pooled = tower(volume).pooled
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    kept.clear()
    pooled.square().mean().backward()
    return found


if __name__ == "__main__":
    main()
