"""What one rank alone runs into; real processes."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from vlp import dist
from vlp.config import ConfigError
from vlp.train import checkpoint
from vlp.train.build import open_run
from vlp.train.recipe import load_recipe

from .ranks import run_ranks


def full_disk_main(folder: Path) -> None:
    def write(place: Path) -> None:
        (place / f"rank-{dist.rank()}").write_text("x" * 5000)

    checkpoint.save(folder, 1, write, keep=2)
    if dist.rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"rank 1: OSError: .*the last good checkpoint is .*step-00000001"
    ):
        checkpoint.save(folder, 2, write, keep=2)


@pytest.mark.dist
def test_a_disk_that_is_full_for_one_rank_ends_all(tmp_path: Path) -> None:
    run_ranks(full_disk_main, 2, tmp_path, tmp_path / "run")
    assert (tmp_path / "run" / "last" / "rank-1").stat().st_size == 5000
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


def too_little_data_main(path: Path, batch: int) -> None:
    if dist.rank() == 0:  # alone: a collective would wait for the other
        with pytest.raises(ConfigError, match=r"48 samples in 6 shards, fewer than data\.batch_size 1000"):
            open_run(load_recipe(path, [f"data.batch_size={batch}"]), resume=False)
        with pytest.raises(ConfigError, match=r"pipe:.*2 shards for 2 ranks with 2 workers each.*at least 4 shards"):
            open_run(load_recipe(path, ["data.train=pipe:cat {0..1}.tar", "data.workers=2"]), resume=False)
        with pytest.raises(ConfigError, match="7 rows do not divide among 2 processes"):
            open_run(load_recipe(path, ["data.batch_size=7"]), resume=False)


@pytest.mark.dist
def test_too_little_data_for_the_ranks_is_said_before_the_first_collective(recipe: Path, tmp_path: Path) -> None:
    run_ranks(too_little_data_main, 2, tmp_path / "out", recipe, 1000)
    assert not (tmp_path / "runs").exists()
