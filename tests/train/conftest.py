"""A small set of shards and a small recipe, for runs of the real command in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT, warm
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

RECIPE = """
seed: 3
image: {size: 32, channels: 1}
tokenizer: {kind: wordpiece, vocab_size: 200, length: 48}
model:
  dim: 16
  image: {kind: conv, width: 8, blocks: [1, 1, 1]}
  text: {kind: "tests.train.toy_tower:ToyText", dropout: 0.2}
data: {batch_size: 8, workers: 1, text: {subset: 0.5}, augment: {shift: 0.1, noise: 0.05}}
objectives: [{kind: clip, positives: group}]
optim: {lr: 1.0e-3, warmup_samples: 40}
engine: {timeout_minutes: 1}
train: {samples: 160, log_every: 1, checkpoint_every_steps: 10}
"""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training samples in 6 shards and 10 for validation."""
    folder = tmp_path_factory.mktemp("shards") / "synthetic"
    with ShardWriter(folder, shard_size=8, source="synthetic", version="test") as writer:
        for index in range(58):
            writer.write(replace(generate(index, 0, 48), split="train" if index < 48 else "val"))
    return folder


def write_recipe(folder: Path, shards: Path) -> Path:
    """Write the recipe for `shards` into a folder, under which its runs will be."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("data: {", f"data: {{train: {shards}, ") + f"out: {folder / 'runs'}\n")
    return path


@pytest.fixture
def recipe(tmp_path: Path, shards: Path) -> Path:
    return write_recipe(tmp_path, shards)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give the test runner its own signal handlers back after a run inside of it."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def environment(**extra: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **extra}


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "vlp.train", *(str(one) for one in arguments)]


def run(*arguments: Any, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `vlp-train` with arguments to its end."""
    return warm.run(
        command(*arguments), capture_output=True, text=True, env=environment(**extra), timeout=240, check=False
    )


def start(*arguments: Any, **extra: str) -> subprocess.Popen[str]:
    """Start `vlp-train` in a process group of its own."""
    return warm.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**extra),
        start_new_session=True,
    )
