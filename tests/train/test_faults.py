"""What one rank alone runs into, and a run that is killed twenty times: real processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import vlp
from tests.train.conftest import run, start
from tests.train.ranks import run_ranks
from tests.train.test_run import assert_same_checkpoint, lines, wait_for
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.data.loader import Loader
from vlp.data.shards.manifest import Manifest
from vlp.train import checkpoint
from vlp.train.cli import main
from vlp.train.engines.state import write_state
from vlp.train.recipe import load_recipe
from vlp.train.setup import open_data
from vlp.train.trainer import TrainingStopped, train


def full_disk_main(folder: Path) -> None:
    def write(place: Path) -> None:
        (place / f"rank-{distributed.rank()}").write_text("x" * 5000)

    checkpoint.save(folder, 1, write, keep=2)
    if distributed.rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"rank 1: OSError: .*the last good checkpoint is .*step-00000001"
    ):
        checkpoint.save(folder, 2, write, keep=2)


BAD = 3
"""Damaged samples of 48; `max_rejected` 0.05 allows 2."""


@pytest.fixture
def damaged(tmp_path: Path, shards: Path) -> Path:
    """The shards, with three images that are none any more."""
    out = tmp_path / "damaged"
    shutil.copytree(shards, out)
    manifest = Manifest.read(out)
    for number in range(BAD):
        columns = manifest.columns(number)
        with open(out / manifest.shards[number].shard, "r+b") as file:
            file.seek(columns.members(2 * number)["png"][0])
            file.write(b"\0" * 16)
    return out


def damage_main(recipe: Path, settings: list[str]) -> None:
    own: list[int] = []
    count = Loader._count

    def counted(self: Loader, rejected: Iterable[tuple[str, str]]) -> None:
        found = list(rejected)
        own.extend(1 for _ in found)
        count(self, found)

    Loader._count = counted  # type: ignore[method-assign]
    with pytest.raises(
        TrainingStopped, match=r"the data failed: 3 of 48 samples are damaged.*saved at step 6, --resume"
    ):
        train(load_recipe(recipe, settings))
    assert 0 < len(own) < BAD, f"rank {distributed.rank()} alone has seen {len(own)}"


@pytest.mark.dist
def test_damage_that_each_rank_sees_a_part_of_is_too_much_together(recipe: Path, damaged: Path, tmp_path: Path) -> None:
    settings = [f"data.train={damaged}", "data.max_rejected=0.05", "train.samples=48", "train.log_every=6"]
    run_ranks(damage_main, 2, tmp_path / "ranks", recipe, settings)


def test_damage_counts_on_after_resuming(recipe: Path, damaged: Path, tmp_path: Path) -> None:
    """All of it is seen in the first pass, of 6 steps; the eighth step alone meets too little of it to stop."""
    settings = ["name=run", f"data.train={damaged}", "train.samples=64", "train.checkpoint_every_steps=7"]
    folder = tmp_path / "runs" / "run"
    assert train(load_recipe(recipe, [*settings, "data.max_rejected=1"])) == "finished"
    seven, eight = folder / "checkpoints" / "step-00000007", folder / "checkpoints" / "step-00000008"
    counters = checkpoint.read_counters(seven)
    assert len(counters["rejected"]) == BAD

    def resume() -> str:
        shutil.rmtree(eight)
        (folder / "last").unlink()
        (folder / "last").symlink_to("checkpoints/step-00000007")
        return train(load_recipe(recipe, [*settings, "data.max_rejected=0.05"]), resume=True)

    with pytest.raises(TrainingStopped, match="3 of 48 samples are damaged"):
        resume()
    eight.mkdir(exist_ok=True)
    del counters["rejected"]  # as older checkpoints are
    checkpoint.write_counters(seven, counters)
    assert resume() == "finished"


@pytest.mark.dist
def test_a_disk_that_is_full_for_one_rank_ends_all(tmp_path: Path) -> None:
    run_ranks(full_disk_main, 2, tmp_path, tmp_path / "run")
    assert (tmp_path / "run" / "last" / "rank-1").stat().st_size == 5000
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


def no_folder_main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a file").touch()
    mine = folder / "a file" / "state" if distributed.rank() == 1 else folder / "state"
    with pytest.raises(OSError, match="Not a directory"):  # on rank 0 too, which could have gone on, and waited
        write_state({"param.a": torch.ones(3)}, mine)


@pytest.mark.dist
def test_a_rank_without_a_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    run_ranks(no_folder_main, 2, tmp_path, tmp_path / "run")


def too_little_data_main(path: Path, batch: int) -> None:
    if distributed.rank() == 0:  # alone: a collective would wait for the other
        with pytest.raises(ConfigError, match=r"48 samples in 6 shards, fewer than data\.batch_size 1000"):
            open_data(load_recipe(path, [f"data.batch_size={batch}"]))
        with pytest.raises(ConfigError, match=r"pipe:.*2 shards for 2 ranks with 2 workers each.*at least 4 shards"):
            open_data(load_recipe(path, ["data.train=pipe:cat {0..1}.tar", "data.workers=2"]))
        with pytest.raises(ConfigError, match="7 rows do not divide among 2 processes"):
            open_data(load_recipe(path, ["data.batch_size=7"]))


@pytest.mark.dist
def test_too_little_data_for_the_ranks_is_said_before_the_first_collective(recipe: Path, tmp_path: Path) -> None:
    run_ranks(too_little_data_main, 2, tmp_path / "out", recipe, 1000)
    assert not (tmp_path / "runs").exists()


def absent_main() -> None:
    started = time.monotonic()
    if distributed.rank() == 1:
        time.sleep(20)  # alive, and never there
    else:
        with pytest.raises(RuntimeError, match=r"(?i)time"):
            distributed.agree(True)
        assert time.monotonic() - started < 19, "it gave up before the other came"
    os._exit(0)  # the group is beyond a barrier


@pytest.mark.dist
@pytest.mark.slow
def test_a_collective_that_a_rank_does_not_enter_times_out(tmp_path: Path) -> None:
    run_ranks(absent_main, 2, tmp_path, timeout_minutes=0.1)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run_leaves_the_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "full"
    process = start(recipe, "name=full", "train.samples=1000000")
    wait_for(lambda: (folder / "last").exists())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))  # the log goes on
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    good = checkpoint.latest(folder)
    assert good is not None and "could not be written (rank 0: OSError: " in errors
    assert f"the last good checkpoint is {good}" in errors and "Traceback" not in errors
    assert [path.name for path in (folder / checkpoint.FOLDER).iterdir() if path.name.startswith(".")] == []
    assert vlp.from_pretrained(good, trust=["tests.train.toy_tower"]).embed_texts(["no effusion"]).shape == (1, 16)


def _train(arguments: list[str]) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os._exit(main(arguments))


@pytest.mark.slow
def test_killed_twenty_times_and_still_the_same_run(recipe: Path, tmp_path: Path) -> None:
    """The trainer saves at every step and is killed at a random moment after its first; the last start ends the run."""
    common = ["data.workers=0", "train.samples=4000", "train.checkpoint_every_steps=1", "train.log_every=1"]
    arguments = [str(recipe), "name=killed", "--resume", *common]
    folder, draw, while_saving = tmp_path / "runs" / "killed", random.Random(1), 0
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=_train, args=(arguments,))
        seen = checkpoint.latest(folder)
        process.start()
        while checkpoint.latest(folder) == seen:
            assert process.is_alive(), "it resumes from what the kill left"
            time.sleep(0.005)
        time.sleep(draw.random() * 0.3)
        process.kill()
        process.join()
        while_saving += bool(list((folder / checkpoint.FOLDER).glob(".step-*.vlp-partial")))
    assert while_saving, "no kill came while a checkpoint was being written"
    killed_at = int(checkpoint.latest(folder).name.removeprefix("step-"))  # type: ignore[union-attr]
    assert killed_at < 495, "the last start has something left to do"
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    whole = run(recipe, "name=whole", *common, "train.checkpoint_every_steps=null")
    assert whole.returncode == 0, whole.stderr
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 501))
    assert_same_checkpoint(folder / "last", tmp_path / "runs" / "whole" / "last")
