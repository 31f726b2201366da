"""Peak memory does not grow with the data set: 2,000 and 200,000 samples, by the loader and by a whole run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.data import repeat_shard
from tests.train.conftest import environment, start
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

SHARD_SIZE, ALLOWED = 1000, 24.0
"""What is kept is bounded, not constant: 64 shards' columns of some 60 kB, the windows' orders. MiB."""

READ = """
import resource, sys
from vlp.data.loader import DataConfig, Loader, open_stream
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.load import TextSpec, build_tokenizer

config = DataConfig(train=sys.argv[1], batch_size=16, workers=0, bucket=True)
texts = open_stream(config, 0, "train", 1).texts(500)
tokenizer = build_tokenizer(TextSpec(kind="wordpiece", length=64, vocab_size=200), texts)
loader = Loader(config, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer)
for place in range(0, 2 * loader.samples, loader.samples // 100):  # two passes, every part of them
    loader.load_state({**loader.state(), "cursor": place // 16 * 16})
    batches = iter(loader)
    for _ in range(2):
        next(batches)
print(loader.samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_set(folder: Path, count: int) -> Path:
    """Write a set of `count` shards that are all links to one of 1,000 small radiographs."""
    one = folder.parent / "one"
    if not one.exists():
        drawn = [generate(index, 0, 32) for index in range(20)]
        with ShardWriter(one, shard_size=SHARD_SIZE) as writer:
            for index in range(SHARD_SIZE):
                sample = drawn[index % len(drawn)]
                object.__setattr__(sample, "key", f"k{index:06d}")
                object.__setattr__(sample, "split", "train")
                writer.write(sample)
    return repeat_shard(one, folder, count)


@pytest.mark.slow
def test_the_loaders_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    peaks = []
    for count in (2, 200):
        shards = write_set(tmp_path / f"set-{count}", count)
        command = [sys.executable, "-c", READ, str(shards)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        samples, peak = done.stdout.split()
        assert int(samples) == count * SHARD_SIZE
        peaks.append(float(peak))
    assert peaks[1] - peaks[0] < ALLOWED, peaks


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_runs_memory_does_not_grow_with_the_set(tmp_path: Path, recipe: Path) -> None:
    """The tokenizer's training over all texts included: the peak is the process's from its start."""
    peaks = []
    for count in (2, 200):
        shards = write_set(tmp_path / f"set-{count}", count)
        process = start(recipe, f"name=n{count}", f"data.train={shards}", "train.samples=320")
        said = process.communicate(timeout=800)[1]
        assert process.returncode == 0, said
        log = (tmp_path / "runs" / f"n{count}" / "log.jsonl").read_text().splitlines()
        peaks.append([json.loads(line) for line in log if '"memory_mb"' in line][-1]["memory_mb"])
    assert peaks[1] - peaks[0] < ALLOWED, peaks
