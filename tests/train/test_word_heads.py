"""MGCA's heads on words: one process, two and four give one loss and one gradient, whatever each one's longest text is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.tiny import BERT, make
from tests.train.ranks import run_ranks
from vlp.batch import Batch
from vlp.core import distributed
from vlp.models.heads import BatchNorm, HeadConfig, build_head, project
from vlp.objectives import build_objectives
from vlp.train.engines.sync_batch_norm import share_statistics
from vlp.train.grad_cache import split_batch
from vlp.train.train_step import TrainStep

TEXTS = [
    "No pneumothorax.",
    "There is a small nodule in the right upper zone. No pleural effusion. The heart is enlarged.",
    "Moderate pulmonary oedema.",
    "Pacemaker.",
    "Consolidation in the left lower zone. Pacemaker leads unchanged. No nodule. No effusion on the left.",
    "The heart is enlarged.",
    "Small nodule.",
    "No oedema in the left zone.",
]


def one_step(out: Path, kinds: list[str]) -> None:
    norm = HeadConfig(kind="bn_mlp", hidden=16)
    objectives = build_objectives([{"kind": kind} for kind in kinds], 24)
    text = {**BERT, "config": {**BERT["config"], "hidden_dropout_prob": 0.0}}
    model, tokenizer = make(text=text, image_head=norm, text_head=norm, needs=objectives.needs)
    torch.manual_seed(5)
    # in double precision nothing but the formula is left: sums of floats in another order differ by 1e-3 of a gradient
    step = TrainStep(model, build_objectives([{"kind": kind} for kind in kinds], 24)).double().train()
    share_statistics(step)
    pixels = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = Batch(
        image=pixels,
        text=tokenizer(TEXTS).tokens,
        group=torch.arange(16).view(8, 2),
        keys=[str(row) for row in range(8)],
    )
    mine = split_batch(whole, distributed.world())[distributed.rank()]
    rows = range(len(whole))[distributed.rank() * len(mine) : (distributed.rank() + 1) * len(mine)]
    mine.text = tokenizer([TEXTS[row] for row in rows]).tokens  # as long as this process's own longest
    total, _ = step(mine, 0.5)
    total.backward()
    world = distributed.world()
    loss = float(distributed.sum_over_ranks(total.detach())) / world
    grads = {
        name: distributed.sum_over_ranks(value.grad) / world
        for name, value in step.named_parameters()
        if value.grad is not None
    }
    if distributed.is_main():
        torch.save((loss, grads), out / "found.pt")


@pytest.mark.dist
def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    found = []
    for world in (1, 2, 4):
        folder = tmp_path / str(world)
        run_ranks(one_step, world, folder, folder, ["mgca"])
        found.append(torch.load(folder / "found.pt"))
    (loss, grads), *others = found
    for other, other_grads in others:
        assert other == pytest.approx(loss, abs=1e-9)
        assert grads.keys() == other_grads.keys()
        largest = max(float(value.abs().max()) for value in grads.values())
        for name, value in grads.items():
            assert torch.allclose(value, other_grads[name], atol=1e-9 * largest), name


def test_padding_is_not_counted() -> None:
    head = build_head(HeadConfig(kind="bn_mlp", hidden=7), 6, 5, "head").train()
    rows = torch.randn(3, 4, 6)
    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    found = project(head, rows, real)[real]
    running = [module.running_var.clone() for module in head.modules() if isinstance(module, BatchNorm)]
    again = build_head(HeadConfig(kind="bn_mlp", hidden=7), 6, 5, "head").train()
    again.load_state_dict({**again.state_dict(), **dict(head.named_parameters())})
    expected = again(rows[real])
    assert torch.allclose(found, expected, atol=1e-5)
    for one, module in zip(running, (one for one in again.modules() if isinstance(one, BatchNorm)), strict=True):
        assert torch.allclose(one, module.running_var, atol=1e-5)
    changed = torch.where(real[..., None], rows, torch.randn_like(rows) * 9)
    assert torch.allclose(project(head, changed, real)[real], found, atol=1e-5)
    assert bool(project(head, rows, torch.zeros_like(real)).isfinite().all()), "a batch without a word"
