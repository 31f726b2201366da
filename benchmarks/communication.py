"""Bytes that each objective exchanges in one step, counted at the collectives of real processes (gloo, no GPU needed).

    torchrun --standalone --nproc-per-node 2 -m benchmarks.communication

Each rank has 32 rows, D = 256, 49 patches, 24 words, 64 concept mentions. Printed: MiB that enter a rank's collectives in
forward and backward, and how many collectives there are: the volume grows with the rows of all ranks for a gather, with
the rows of one rank for a ring.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as td

from vlp.batch import Batch, Grid, ModelOutput, Phrases, Spans, Tokens
from vlp.core import distributed
from vlp.objectives import build_objectives

ROWS, DIM, PATCHES, WORDS, MENTIONS = 32, 256, 49, 24, 64
CALLS = ("all_gather", "all_reduce", "reduce_scatter_tensor", "batch_isend_irecv")
OBJECTIVES: tuple[Any, ...] = ("convirt", "clip", "siglip", "dhn_nce", "mgca", "gloria", "concept")


def output_of(generator: torch.Generator) -> ModelOutput:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    attention = torch.softmax(torch.randn(ROWS, PATCHES, generator=generator), 1)
    return ModelOutput(
        image=random(ROWS, DIM),
        text=random(ROWS, DIM),
        patches=random(ROWS, PATCHES, DIM),
        patch_attention=attention,
        grid=Grid((7, 7), (32.0, 32.0), (16.0, 16.0)),
        words=random(ROWS, WORDS, DIM),
        word_mask=torch.ones(ROWS, WORDS, dtype=torch.bool),
        word_attention=torch.softmax(torch.randn(ROWS, WORDS, generator=generator), 1),
        tokens=random(ROWS, WORDS, DIM),
        phrases=random(MENTIONS, DIM),
        logit_scale=torch.full((1,), 10.0, requires_grad=True),
        logit_bias=torch.full((1,), -10.0, requires_grad=True),
    )


def batch_of(generator: torch.Generator) -> Batch:
    ids = torch.ones(ROWS, WORDS, dtype=torch.int64)
    words = torch.arange(WORDS).expand(ROWS, WORDS)
    owner = torch.arange(MENTIONS) % ROWS
    code = torch.randint(0, 9, (MENTIONS,), generator=generator)
    short = torch.ones(MENTIONS, 4, dtype=torch.int64)
    return Batch(
        image=torch.zeros(ROWS, 1, 1, 1),
        text=Tokens(ids, ids.bool(), words),
        group=torch.zeros(ROWS, 2, dtype=torch.int64),
        keys=[str(row) for row in range(ROWS)],
        spans=Spans(start=owner * 0, end=owner * 0 + 1, owner=owner, code=code, assertion=torch.ones_like(owner)),
        phrases=Phrases(tokens=Tokens(short, short.bool(), short), owner=owner, code=code),
    )


def size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (list, tuple)):
        return sum(size(one) for one in value)
    return size(value.tensor) if isinstance(value, td.P2POp) else 0


def count(kind: Any) -> tuple[Counter[str], Counter[str]]:
    """Return bytes and calls of one forward and backward, by collective."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(distributed.rank())
    objective, output, batch = build_objectives([kind], DIM), output_of(generator), batch_of(generator)
    moved: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    originals = {name: getattr(td, name) for name in CALLS}

    def watched(name: str) -> Any:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            moved[name] += size(first)
            calls[name] += 1
            return originals[name](first, *rest, **named)

        return call

    for name in CALLS:
        setattr(td, name, watched(name))
    try:
        objective(output, batch, 0.5).total.backward()
    finally:
        for name, original in originals.items():
            setattr(td, name, original)
    return moved, calls


def main() -> None:
    distributed.init()
    for kind in OBJECTIVES:
        moved, calls = count(kind)
        if distributed.is_main():
            parts = ", ".join(f"{name} {moved[name] / 2**20:.3f} MiB in {calls[name]}" for name in CALLS if calls[name])
            print(
                f"{kind:10} {sum(moved.values()) / 2**20:8.3f} MiB  {sum(calls.values()):3} calls  ({parts})",
                flush=True,
            )
    distributed.shutdown()


if __name__ == "__main__":
    main()
