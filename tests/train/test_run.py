"""The command itself, in real processes: exact resume, signals, what is refused, what is logged."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import run, start
from vlp.core.config import ConfigError, to_tree
from vlp.train.checkpoint import latest
from vlp.train.cli import main
from vlp.train.recipe import check_resume, load_recipe


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    (part,) = (folder / "state" / "engine").glob("*.safetensors")
    return load_file(part)


def lines(folder: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == event]


def wait_for(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    """Weights, moments, step counts, random generators and the loader's position, bit by bit."""
    for mine, other in ((state_of(found), state_of(expected)),):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert torch.equal(mine[name], value), name
    random = "state/random/rank-00000.safetensors"
    mine, other = load_file(found / random), load_file(expected / random)
    assert all(torch.equal(mine[name], other[name]) for name in other)
    counters = [json.loads((folder / "state/counters.json").read_text()) for folder in (found, expected)]
    assert counters[0]["loader"] == counters[1]["loader"]
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_twenty_steps_equal_ten_a_kill_and_ten_more(recipe: Path, tmp_path: Path) -> None:
    whole = run(recipe, "name=whole")
    assert whole.returncode == 0, whole.stderr
    runs = tmp_path / "runs"

    process = start(recipe, "name=broken", "data.workers=2")
    wait_for(lambda: (runs / "broken" / "last").exists())
    wait_for(lambda: len(lines(runs / "broken", "train")) >= 11)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert latest(runs / "broken").name == "step-00000010"  # type: ignore[union-attr]

    again = run(recipe, "name=broken", "--resume", "data.workers=0")
    assert again.returncode == 0, again.stderr
    assert_same_checkpoint(runs / "broken" / "last", runs / "whole" / "last")
    numbers = [line["step"] for line in lines(runs / "broken", "train")]
    assert numbers == list(range(1, 21)), "the log has every step once"
    for ours, theirs in zip(lines(runs / "broken", "train"), lines(runs / "whole", "train"), strict=True):
        assert (ours["loss"], ours["grad_norm"], ours["lr"]) == (theirs["loss"], theirs["grad_norm"], theirs["lr"])

    # the folder is what users load
    import vlp

    pretrained = vlp.from_pretrained(runs / "broken" / "last", trust=["tests.train.toy_tower"])
    assert pretrained.embed_texts(["no effusion"]).shape == (1, 16)
    # and finished is finished
    done = run(recipe, "name=broken", "--resume")
    assert done.returncode == 0 and "finished" in done.stderr


def test_a_signal_saves_and_says_resumable(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, "name=stopped", "train.samples=1000000", "train.checkpoint_every_steps=null")
    folder = tmp_path / "runs" / "stopped"
    wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
    os.killpg(process.pid, signal.SIGTERM)  # to the loader's workers too, as a batch system does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "resumable" in errors
    saved = lines(folder, "checkpoint")[-1]["step"]
    assert saved == lines(folder, "train")[-1]["step"]
    assert json.loads((folder / "last/state/counters.json").read_text())["step"] == saved


def test_a_line_of_the_log_and_the_shape_of_a_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], handlers: None
) -> None:
    done = run(
        recipe, "name=short", "train.samples=32", "train.validate_every=2", "train.keep=1",
        "train.checkpoint_every_steps=1", "log.wandb=offline", WANDB_SILENT="true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "short"
    line = lines(folder, "train")[-1]
    for name in (
        "loss",
        "clip",
        "logit_scale",
        "lr",
        "grad_norm",
        "samples_per_s",
        "data_wait",
        "truncated",
        "memory_mb",
    ):
        assert isinstance(line[name], float), name
    assert line["sources"] == {"synthetic": 8} and line["samples"] == 32 and line["rejected"] == 0
    assert 0 <= line["data_wait"] <= 1 and 0 <= line["truncated"] <= 1
    checked = lines(folder, "validate")[-1]
    assert checked["step"] == 4 and checked["n"] + checked["left_out"] == 10 and checked["loss"] > 0
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004"], "rotated"
    assert os.readlink(folder / "last") == "checkpoints/step-00000004", "relative: the folder can be moved"
    (own,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    words = own.read_bytes()
    console = next(line for line in done.stderr.splitlines() if line.startswith("train 4/4 "))
    for name in [name for name in line if name not in ("event", "step", "time", "sources")]:
        assert f" {name} " in console and f"train/{name}".encode() in words, name
    assert " sources/synthetic 8" in console and b"train/sources/synthetic" in words
    everything = (folder / "log.jsonl").read_text() + done.stdout + done.stderr + words.decode(errors="replace")
    for word in ("effusion", "radiograph", "patient"):
        assert word not in everything.lower(), "reports stay out of logs"

    with pytest.raises(SystemExit, match="2"):
        main([str(recipe), "name=short", "train.samples=32"])
    again = capsys.readouterr().err
    assert "holds a run already" in again and "--resume" in again and "Traceback" not in again
    with pytest.raises(SystemExit, match="2"):
        main([str(recipe), "name=short", "train.samples=32", "optim.lr=0.5", "data.batch_size=4", "--resume"])
    other = capsys.readouterr().err
    assert "optim.lr: 0.001 -> 0.5" in other and "data.batch_size: 8 -> 4" in other


MGCA = "{kind: mgca, prototypes: 4, %s}"
LONGER: list[tuple[list[str], bool]] = [
    (["optim.schedule=constant"], True),
    (["optim.schedule=cosine"], False),
    (["optim.schedule=constant", "optim.warmup_samples=200"], False),
    (["optim.schedule=constant", "objectives=[{kind: clip, weight: [[0.0, 0.0], [0.3, 1.0]]}]"], False),
    (["optim.schedule=constant", f"objectives=[{MGCA % 'freeze: 0.02'}]"], False),
    (["optim.schedule=constant", f"objectives=[{MGCA % 'freeze: 0'}]"], True),
]


@pytest.mark.parametrize(
    ("settings", "is_fine"), LONGER, ids=lambda one: " ".join(one) if isinstance(one, list) else ""
)
def test_a_run_is_made_longer_where_nothing_follows_its_progress(
    settings: list[str], is_fine: bool, recipe: Path
) -> None:
    saved = to_tree(load_recipe(recipe, settings))
    longer = load_recipe(recipe, [*settings, "train.samples=1600"])
    if is_fine:
        assert check_resume(longer, saved) == ["train.samples: 160 -> 1600"]
    else:
        with pytest.raises(ConfigError, match=r"trained with another recipe \(train\.samples: 160 -> 1600\)"):
            check_resume(longer, saved)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["opitm.lr=1"], "unknown key 'opitm': did you mean 'optim'?"),
        (["data.trian=x"], "unknown key 'data.trian': did you mean 'train'?"),
        (["objectives=[convrit]"], "unknown objective 'convrit': did you mean 'convirt'?"),
        (["data.train=nowhere/to/be/found"], "nowhere/to/be/found"),
        (["optim.lr=fast"], "optim.lr"),
        (["train.accumulate=2"], "train.cached_embeddings=true"),
        (["train.accumulate=3", "train.cached_embeddings=true"], "do not divide into 3 chunks"),
        (["data.batch_size=1000"], "48 samples"),
        (["optim.multipliers={imaeg_tower: 0.1}"], "did you mean 'image_tower'?"),
        (["train.samples"], "not of the form a.b=value"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_two(
    recipe: Path,
    overrides: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    handlers: None,
) -> None:
    """In this process: starting one costs seconds of imports; the next test does."""
    try:
        code = main([str(recipe), *overrides])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line and line.startswith("vlp-train: ")
    assert not (tmp_path / "runs" / "tiny").exists(), "a start that comes to nothing leaves nothing"


def test_a_missing_recipe_names_the_nearest(recipe: Path) -> None:
    done = run(recipe.with_name("tyni.yaml"))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("vlp-train: no such file: ") and "did you mean 'tiny.yaml'?" in line


def test_the_loss_that_is_not_finite_names_its_batch(recipe: Path, tmp_path: Path) -> None:
    done = run(recipe, "name=nan", "optim.lr=1e30", "optim.clip=0", "optim.warmup_samples=0", "train.samples=800")
    assert done.returncode == 1
    assert "not finite" in done.stderr and "keys of the batch: " in done.stderr and "Traceback" not in done.stderr
    stopped = lines(tmp_path / "runs" / "nan", "stopped")[0]
    assert len(stopped["keys"]) == 8 and all(key in done.stderr for key in stopped["keys"])


def test_nothing_that_is_not_finite_is_saved_between_two_lines_of_the_log(recipe: Path, tmp_path: Path) -> None:
    broken = ["optim.lr=1e30", "optim.clip=0", "optim.warmup_samples=0", "train.samples=800"]
    done = run(recipe, "name=nan", *broken, "train.log_every=100", "train.checkpoint_every_steps=3")
    stopped = lines(tmp_path / "runs" / "nan", "stopped")[0]
    assert done.returncode == 1 and stopped["step"] <= 6
    assert not any(line["step"] >= stopped["step"] for line in lines(tmp_path / "runs" / "nan", "checkpoint"))


def test_plan_and_dry_run(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(recipe), "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "48 samples" in plan and "train-00000" in plan
    assert main([str(recipe), "--dry-run", "data.workers=0"]) == 0
    dry = capsys.readouterr().out
    trained = int(re.search(r"([\d,]+) parameters, ([\d,]+) trained, fp32 on cpu", dry)[2].replace(",", ""))  # type: ignore[index]
    peak, before = re.search(
        r"peak of one step, largest process: ([\d,]+) MiB \(([\d,]+) MiB before it\)", dry
    ).groups()  # type: ignore[union-attr]
    assert int(peak.replace(",", "")) >= int(before.replace(",", "")) > 50
    for stage, bytes_each in {"ddp / zero 0": 16, "zero 1": 8 + 12 / 8, "zero 2": 4 + 16 / 8, "zero 3": 20 / 8}.items():
        row = next(line.split() for line in dry.splitlines() if line.strip().startswith(stage))
        assert float(row[-2]) == pytest.approx(trained * bytes_each / 2**20, abs=0.051), f"{stage} on 8 processes"
    assert not (tmp_path / "runs").exists(), "looking leaves nothing behind"
