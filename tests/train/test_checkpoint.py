"""Checkpoints are whole or not there, whenever the process dies; and the small pure parts around them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.train.toys import step_of
from vlp.core.config import ConfigError
from vlp.core.process import is_alive, is_launcher, start_time
from vlp.train import checkpoint
from vlp.train.dry_run import memory_table
from vlp.train.engines.state import read_state, write_state
from vlp.train.logging import forget, rounded
from vlp.train.optimizer import OptimConfig, lr_scale, parameter_groups
from vlp.train.recipe import differences


def _save_for_ever(run: Path) -> None:
    for step in range(int(time.time() * 1000) % 10**7, 10**8):

        def write(folder: Path, step: int = step) -> None:
            for name in ("a", "b", "c"):
                (folder / name).write_text(json.dumps([step] * 2000))

        checkpoint.save(run, step, write, keep=2)


def test_killed_at_random_moments_twenty_times(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path,))
        process.start()
        while checkpoint.latest(tmp_path) is None:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.2)
        assert process.is_alive()
        process.kill()
        process.join()
        found = checkpoint.latest(tmp_path)
        assert found is not None
        steps = {json.loads((found / name).read_text())[0] for name in ("a", "b", "c")}
        assert steps == {int(found.name.removeprefix("step-"))}, "the last checkpoint is whole"
        checkpoint.rotate(tmp_path, 2)
        left = sorted(path.name for path in (tmp_path / checkpoint.FOLDER).iterdir())
        assert all(name.startswith("step-") for name in left), "a start clears away what a crash left"


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, lambda folder: _write(folder / "a", "good"), keep=2)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError, match=r"step-00000002 could not be written.*step-00000001"):
            checkpoint.save(tmp_path, 2, lambda folder: _write(folder / "a", "x" * 100_000), keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "last" / "a").read_text() == "good"
    assert [path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()] == ["step-00000001"]


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def test_rotation_keeps_the_newest_and_last_is_relative(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoint.save(tmp_path, step, lambda folder: _write(folder / "a", "x"), keep=2)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-00000003", "step-00000010"]
    assert os.readlink(tmp_path / "last") == "checkpoints/step-00000010"
    (tmp_path / "last").unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step-00000010"
    with pytest.raises(ConfigError, match="cannot be resumed"):
        checkpoint.read_counters(tmp_path / "checkpoints" / "step-00000010")


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    write_state({"param.a": torch.ones(2, 3), "param.b": torch.ones(())}, tmp_path / "s")
    found = {"param.a": torch.zeros(2, 3), "param.b": torch.zeros(())}
    assert read_state(found, tmp_path / "s") == {"param.a", "param.b"}
    assert float(found["param.a"].sum()) == 6 and float(found["param.b"]) == 1
    with pytest.raises(ConfigError, match=r"lacks param\.c"):
        read_state({**found, "param.c": torch.zeros(1)}, tmp_path / "s")
    with pytest.raises(ConfigError, match=r"holds unknown param\.b"):
        read_state({"param.a": found["param.a"]}, tmp_path / "s")
    with pytest.raises(ConfigError, match=r"other shapes for param\.a \(2, 3\) -> \(3, 2\)"):
        read_state({**found, "param.a": torch.zeros(3, 2)}, tmp_path / "s")
    with pytest.raises(ConfigError, match="no engine state"):
        read_state(found, tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_damaged_state_is_an_error_that_names_its_folder(kept: int, tmp_path: Path) -> None:
    state = {"param.a": torch.ones(64, 3)}
    write_state(state, tmp_path / "s")
    path = next((tmp_path / "s").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=f"{tmp_path / 's'}: the engine state cannot be read"):
        read_state(state, tmp_path / "s")


def test_channels_last_and_integers_come_back(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    write_state({"param.k": kernel, "buffer.n": torch.tensor(7)}, tmp_path / "s")
    found = {"param.k": torch.zeros_like(kernel), "buffer.n": torch.tensor(0)}
    read_state(found, tmp_path / "s")
    assert torch.equal(found["param.k"], kernel) and int(found["buffer.n"]) == 7


def test_the_schedule_counts_samples() -> None:
    cosine = OptimConfig(warmup_samples=100, final=0.1)
    assert [lr_scale(cosine, seen, 1100) for seen in (50, 100, 1100)] == pytest.approx([0.5, 1.0, 0.1])
    assert lr_scale(cosine, 600, 1100) == pytest.approx(0.55)
    assert lr_scale(OptimConfig(schedule="constant", warmup_samples=10), 500, 1000) == 1.0
    assert lr_scale(OptimConfig(warmup_samples=10_000), 1000, 1000) == 1.0, "a run shorter than its warm-up"


def test_parameter_groups() -> None:
    step = step_of(["siglip"])
    groups = parameter_groups(step, OptimConfig(weight_decay=0.1, multipliers={"image": 0.5, "image.1": 0.25}))
    where = {name: group for group in groups for name in group["names"]}
    assert len(where) == len(list(step.parameters()))
    assert where["model.image.0.weight"]["weight_decay"] == 0.1 and where["model.image.0.weight"]["multiplier"] == 0.5
    assert where["model.image.1.0.linear.weight"]["multiplier"] == 0.25, "the longest prefix wins"
    for name in ("model.image.0.bias", "model.logit_scale", "model.text.embed.weight", "model.text.block.norm.weight"):
        assert where[name]["weight_decay"] == 0.0, name
    with pytest.raises(ConfigError, match=r"optim\.multipliers\.imag: .*did you mean 'image'"):
        parameter_groups(step, OptimConfig(multipliers={"imag": 0.1}))
    for parameter in step.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to train"):
        parameter_groups(step, OptimConfig())


def test_differences_name_the_key() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}}
    assert differences(old, {"a": 1, "b": {"c": [1, 3], "e": 1}}) == [
        ("b.c", [1, 2], [1, 3]),
        ("b.d", "x", None),
        ("b.e", None, 1),
    ]
    assert differences(old, old) == []


def test_the_log_forgets_a_lost_future(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"event": "train", "step": step}) + "\n" for step in range(5)) + '{"event": "tr')
    forget(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]
    assert rounded({"a": float("nan"), "b": [1.23456789], "c": "x"}) == {"a": None, "b": [1.23457], "c": "x"}


def test_memory_of_each_stage() -> None:
    """The bytes a parameter of the ZeRO paper's table, with fp32 parameters and gradients and the master copy."""
    table = dict(memory_table(2**20, 0, 4))
    assert table["ddp / zero 0"] == 16 and table["fsdp2 (shard)"] == 4
    assert table["zero 1"] == 8 + 3 and table["zero 2"] == 4 + 4 and table["zero 3"] == 5


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/usr/bin/python3", "/venv/bin/torchrun", "--standalone"], True),
        (["python", "-m", "torch.distributed.run"], True),
        (["/venv/bin/python", "-u", "-m", "deepspeed.launcher.launch"], True),
        (["/venv/bin/accelerate", "launch"], True),
        (["bash", "launch/deepspeed.sh", "recipe.yaml"], False),
        (["bash", "-c", "cd deepspeed && torchrun"], False),
        (["python", "-m", "pytest", "tests"], False),
        ([], False),
    ],
)
def test_what_a_launcher_looks_like(command: list[str], expected: bool) -> None:
    assert is_launcher(command) is expected


def test_a_process_that_is_gone_is_not_alive() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = start_time(process.pid)
    assert is_alive(process.pid, started)
    assert not is_alive(process.pid, 1.0), "another process with the same number"
    process.kill()
    process.wait()
    assert not is_alive(process.pid, started)
