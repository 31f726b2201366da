"""A rank of the multi-process tests: `python -m objectives.ranks RANK FOLDER`, three of them, started once per session.

All cases run with three processes, then with two, and the reference's two-rank example with two; each rank leaves its
losses and gradients in FOLDER.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as td

from tests.objectives.cases import CASES
from tests.objectives.fixtures import IMAGE_OF_TWO_RANKS, PROTOTYPES, TEXT_OF_TWO_RANKS, tensor
from tests.objectives.kit import loss_and_gradients
from vlp.batch import Batch, ModelOutput, Tokens
from vlp.objectives import build_objectives
from vlp.objectives.mgca import sinkhorn


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the six rows of the world are dealt to ranks."""

    name: str
    shares: tuple[int, ...]
    bare: bool = False
    training: bool = True
    missing: tuple[int, ...] = ()


LAYOUTS = [
    Layout("three", (2, 2, 2)),
    Layout("three-bare", (2, 2, 2), bare=True),
    Layout("two", (3, 3)),
    Layout("two-bare", (3, 3), bare=True),
    Layout("two-uneven", (4, 2), training=False),
    Layout("three-missing", (2, 2, 2), missing=(1, 2, 3)),
    Layout("two-missing", (3, 3), missing=(0, 4)),
    Layout("two-one-text", (3, 3), missing=(0, 1, 2, 4, 5)),
    Layout("two-no-text", (3, 3), missing=(0, 1, 2, 3, 4, 5)),
]


TWO_RANKS = {
    "clip": ({"kind": "clip"}, 1 / 0.07, 0.0),
    "siglip": ({"kind": "siglip"}, 10.0, -10.0),
    "siglip/ring": ({"kind": "siglip", "exchange": "ring"}, 10.0, -10.0),
}
"""The reference's example F1x: (recipe line, scale, bias)."""


def two_ranks(rank: int, ranks: int = 2) -> dict[str, torch.Tensor]:
    """Return this rank's losses and Sinkhorn codes on its share of F1x; of one rank, those of the whole."""
    rows = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
    image, text = IMAGE_OF_TWO_RANKS[rows], TEXT_OF_TWO_RANKS[rows]
    count = len(image)
    blank = torch.zeros((count, 1), dtype=torch.int64)
    batch = Batch(
        image=torch.zeros(count, 1, 2, 2),
        text=Tokens(ids=blank, mask=blank == 0, words=blank),
        group=torch.arange(1, 2 * count + 1).reshape(count, 2) + 100 * rank,
        keys=[f"{rank}-{row}" for row in range(count)],
    )
    found: dict[str, torch.Tensor] = {}
    for name, (tree, scale, bias) in TWO_RANKS.items():
        output = ModelOutput(image=image, text=text, logit_scale=tensor([scale]), logit_bias=tensor([bias]))
        found[name] = build_objectives([tree], 4)(output, batch).total
    unit = torch.nn.functional.normalize
    scores = unit(image, dim=1) @ unit(PROTOTYPES, dim=1).T
    found["codes"] = sinkhorn(scores, 0.05, 3)
    return found


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
                    missing=layout.missing,
                )
                for case in CASES
                for dtype in (torch.float32, torch.float64)
            }
            torch.save(found, folder / f"{layout.name}-{rank}.pt")
        if world == 2:
            torch.save(two_ranks(rank), folder / f"two-ranks-{rank}.pt")
        td.barrier()
        td.destroy_process_group()


if __name__ == "__main__":
    run(int(sys.argv[1]), Path(sys.argv[2]))
