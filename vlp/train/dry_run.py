"""What a recipe would read (`--plan`), and what one step of it costs (`--dry-run`)."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlp.core import distributed

if TYPE_CHECKING:
    from .recipe import Recipe

PLANNED_STEPS = 3
LAYOUTS = {"ddp / zero 0": (16, 0), "zero 1": (8, 12), "zero 2": (4, 16), "zero 3": (0, 20), "fsdp2 (shard)": (0, 16)}
"""Bytes of a trained parameter that each process keeps, and that all processes share out."""


def print_plan(recipe: Recipe) -> None:
    """Print the shards and the first batches of a recipe, by process."""
    from ..data.stream import open_stream
    from .recipe import check_world

    # A plan needs no process group: under a launcher rank 0 prints it for all.
    if int(os.environ.get("RANK", "0")):
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    check_world(recipe, world)
    stream = open_stream(recipe.data, recipe.seed, "train", world)
    sys.stdout.write(f"{stream.describe(0, PLANNED_STEPS, world)}\n")
    sys.stdout.write(f"{recipe.steps} steps of {recipe.data.batch_size} samples\n")


def memory_table(trained: int, frozen: int, world: int) -> list[tuple[str, float]]:
    """Return (layout, MiB a process) of fp32 parameters, gradients and AdamW's two moments; activations come on top.

    Bytes a trained parameter: 4 parameter + 4 gradient + 8 moments; ZeRO 1 shares out the moments, 2 gradients as well,
    3 (and FSDP2) everything; the frozen ones are 4, shared out by 3 only. A ZeRO stage also keeps its fp32 master copy.
    """
    return [
        (name, (trained * (kept + shared / world) + 4 * frozen / (1 if kept else world)) / 2**20)
        for name, (kept, shared) in LAYOUTS.items()
    ]


def dry_run(recipe: Recipe) -> None:
    """Build everything, train one step in a throw-away folder, and print parameters and memory. Collective."""
    from .grad_cache import accumulate_gradients
    from .logging import peak_memory_mb
    from .optimizer import lr_scale
    from .setup import build, open_data

    data = open_data(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        folder = distributed.broadcast_object(scratch)
        components = build(replace(recipe, out=folder), Path(folder), data)
        before = peak_memory_mb()
        batch = next(iter(components.loader)).to(components.device)
        losses = accumulate_gradients(
            components.engine, batch, 0.0, recipe.train.accumulate, recipe.train.cached_embeddings
        )
        total = recipe.steps * recipe.data.batch_size
        report = components.engine.step(lr_scale(recipe.optim, recipe.data.batch_size, total))
        peaks = distributed.gather_objects(peak_memory_mb())
        distributed.barrier()
    if not distributed.is_main():
        return
    summary = components.summary()
    trained, frozen = summary["trained"], summary["parameters"] - summary["trained"]
    lines = [
        f"{summary['parameters']:,} parameters, {trained:,} trained, {summary['precision']} on {summary['device']}",
        f"{recipe.steps:,} steps of {recipe.data.batch_size} samples; texts of this batch: {batch.text.ids.shape[1]} tokens",
        f"loss {float(losses.total.detach()):.4f}, gradient norm {float(report.grad_norm):.4f}",
        f"peak of one step, largest process: {max(peaks):,.0f} MiB ({before:,.0f} MiB before it)",
        "parameters, gradients and optimiser, MiB a process (activations come on top):",
    ]
    worlds = sorted({distributed.world(), 8, 64})
    lines.append("  " + "processes".ljust(16) + "".join(f"{world:>12}" for world in worlds))
    rows = zip(*(memory_table(trained, frozen, world) for world in worlds), strict=True)
    lines += ["  " + row[0][0].ljust(16) + "".join(f"{size:>12,.1f}" for _, size in row) for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
