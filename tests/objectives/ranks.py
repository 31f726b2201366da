"""A rank of the multi-process tests: `python -m objectives.ranks RANK FOLDER`, three of them, started once per session.

All cases run with three processes, then with two; each rank leaves its losses and gradients in FOLDER.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as td

from .cases import CASES
from .kit import loss_and_gradients


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the six rows of the world are dealt to ranks."""

    name: str
    shares: tuple[int, ...]
    bare: bool = False
    training: bool = True


LAYOUTS = [
    Layout("three", (2, 2, 2)),
    Layout("three-bare", (2, 2, 2), bare=True),
    Layout("two", (3, 3)),
    Layout("two-bare", (3, 3), bare=True),
    Layout("two-uneven", (4, 2), training=False),
]


def run(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank >= world:
            continue
        td.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
        for layout in LAYOUTS:
            if len(layout.shares) != world:
                continue
            found = {
                f"{case.name}/{dtype}": loss_and_gradients(
                    case,
                    dtype,
                    bare=layout.bare,
                    rank=rank,
                    shares=list(layout.shares),
                    training=layout.training,
                )
                for case in CASES
                for dtype in (torch.float32, torch.float64)
            }
            torch.save(found, folder / f"{layout.name}-{rank}.pt")
        td.barrier()
        td.destroy_process_group()


if __name__ == "__main__":
    run(int(sys.argv[1]), Path(sys.argv[2]))
