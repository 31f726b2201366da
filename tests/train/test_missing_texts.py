"""Training where some images have no text: chunks, ranks and the command itself, for every kind of objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import write_recipe
from tests.train.ranks import run_ranks
from tests.train.test_grad_cache import COUPLED, assert_same, engine_of, grads, lines_of
from tests.train.test_run import lines
from tests.train.toys import batch, shard, step_of
from vlp.batch import Batch
from vlp.train.cli import main
from vlp.train.engines.base import EngineConfig
from vlp.train.engines.torch import TorchEngine
from vlp.train.grad_cache import accumulate_gradients
from vlp.train.optimizer import OptimConfig
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

MISSING = (1, 2, 3, 6)
"""Rows without a text: of two ranks one has a single text left, of four chunks one has none."""


def some_texts() -> Batch:
    whole = batch()
    whole.has_text = [row not in MISSING for row in range(len(whole))]
    return whole


@pytest.mark.parametrize("kind", COUPLED)
def test_cached_accumulation_with_missing_texts(kind: str) -> None:
    whole, cached = engine_of(lines_of(kind)), engine_of(lines_of(kind))
    torch.manual_seed(5)  # of the objective's own dropout
    expected = accumulate_gradients(whole, some_texts(), 0.5, 1, False)
    torch.manual_seed(5)
    found = accumulate_gradients(cached, some_texts(), 0.5, 4, True)
    torch.testing.assert_close(found.total, expected.total)
    assert_same(grads(cached), grads(whole), 1e-12)


def without_dropout(kinds: list[Any]) -> list[Any]:
    return [
        {**kind, "dropout": 0.0} if isinstance(kind, dict) and kind["kind"] == "medslip" else kind for kind in kinds
    ]


def every_kind(out: Path) -> None:
    """Leave each kind's loss and gradients, of this rank's rows, as averaged by the engine."""
    from vlp.core import distributed

    found: dict[str, Any] = {}
    for kind in COUPLED:
        step = step_of(without_dropout(lines_of(kind))).double()
        engine = TorchEngine(step, OptimConfig(), EngineConfig(), torch.device("cpu"))
        losses = accumulate_gradients(
            engine, shard(some_texts(), distributed.rank(), distributed.world()), 0.5, 1, False
        )
        found[kind] = (losses.total.detach(), grads(engine))
    torch.save(found, out / f"{distributed.rank()}.pt")


@pytest.mark.dist
def test_two_processes_with_missing_texts_are_one(tmp_path: Path) -> None:
    run_ranks(every_kind, 2, tmp_path / "two", tmp_path / "two")
    (tmp_path / "one").mkdir()
    every_kind(tmp_path / "one")
    alone = torch.load(tmp_path / "one" / "0.pt")
    ranks = [torch.load(tmp_path / "two" / f"{rank}.pt") for rank in range(2)]
    for kind, (loss, expected) in alone.items():
        torch.testing.assert_close((ranks[0][kind][0] + ranks[1][kind][0]) / 2, loss, rtol=1e-12, atol=1e-12)
        for rank in ranks:
            assert_same(rank[kind][1], expected, 1e-12)


def written(folder: Path, has_text: bool) -> Path:
    """Write 24 samples for training and 16 for validation, two of three with a text where there are any."""
    with ShardWriter(folder, shard_size=8, source="synthetic", version="test") as writer:
        for index in range(40):
            sample = replace(generate(index, 0, 48), split="train" if index < 24 else "val")
            missing = not has_text or index % 3 == 0
            writer.write(replace(sample, report=None, captions=(), concepts=()) if missing else sample)
    return folder


def test_a_run_counts_and_shows_what_has_no_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, written(tmp_path / "set", True))
    settings = ["train.samples=24", "train.validate_every=3", "data.workers=0", "name=some"]
    assert main([str(recipe), *settings]) == 0
    run = tmp_path / "runs" / "some"
    assert lines(run, "start")[0]["without_text"] == 8
    assert sum(line["without_text"] for line in lines(run, "train")) == 8
    assert lines(run, "validate")[0]["n"] == 16
    assert "8 of 24 training samples have no text" in capfd.readouterr().err


def test_a_set_without_texts_is_refused_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, written(tmp_path / "set", False))
    with pytest.raises(SystemExit, match="2"):
        main([str(recipe), "name=none", "data.workers=0"])
    said = capfd.readouterr().err
    assert "none of the 24 samples has a text" in said and "Traceback" not in said
    assert not (tmp_path / "runs" / "none").exists()
