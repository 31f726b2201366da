"""What two ranks leave behind of a run: one log, one console, one dashboard, and not a word of a report."""

from __future__ import annotations

import json
import random
import string
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.conftest import write_recipe
from tests.train.test_launch import finish, launch
from tests.train.test_run import lines
from vlp.sample import Report
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

WORDS = ["".join(random.Random(index).choices(string.ascii_lowercase, k=14)) for index in range(58)]
"""A word for each report that stands nowhere else, so that no vocabulary learns it either."""


def planted(report: Report, word: str) -> Report:
    start = len(report.text) + 1
    sentence = (start, start + len(word) + 1)
    return replace(report, text=f"{report.text} {word}.", sentences=(*report.sentences, sentence))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marked") / "synthetic"
    with ShardWriter(folder, shard_size=8, source="synthetic", version="test") as writer:
        for index, word in enumerate(WORDS):
            sample = generate(index, 0, 48)
            assert sample.report is not None
            split = "train" if index < 48 else "val"
            writer.write(replace(sample, report=planted(sample.report, word), split=split))
    content = b"".join(path.read_bytes() for path in folder.glob("*.tar"))
    assert all(word.encode() in content for word in WORDS)
    return folder


def said(output: str, folder: Path) -> list[str]:
    """Return the planted words that are in the console's output or in any file of a folder."""
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    everything = b"\n".join([output.encode(), *written]).lower()
    return [word for word in WORDS if word.encode() in everything]


@pytest.mark.dist
@pytest.mark.slow
def test_two_ranks_write_one_log_and_no_report(marked: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path, marked), tmp_path / "runs" / "two"
    settings = ["train.samples=32", "train.validate_every=2", "train.checkpoint_every_minutes=1e-6"]
    process = launch(
        ["torchrun.sh"], recipe, "name=two", *settings, "log.wandb=offline", WANDB_SILENT="true"
    )  # fmt: skip
    output = finish(process)
    assert process.returncode == 0, output

    written = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    events = [(one["event"], one["step"]) for one in written]
    expected = [("start", 0)]
    for step in range(1, 5):
        expected += [("train", step), *([("validate", step)] if step % 2 == 0 else []), ("checkpoint", step)]
    assert events == [*expected, ("end", 4)], "one writer, and each rank entered each save and validation"
    for event, step in events:
        assert output.count(f"{event} {step}/4 ") == 1, "the console says it once"
    assert [one["sources"] for one in lines(folder, "train")] == [{"synthetic": 8}] * 4, "of both ranks"
    assert [(one["n"], one["left_out"]) for one in lines(folder, "validate")] == [(8, 2)] * 2
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert len(list(run.glob("*.wandb"))) == 1
    assert said(output, tmp_path / "runs") == []


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_that_fails_says_no_report_either(marked: Path, tmp_path: Path) -> None:
    recipe, broken = (
        write_recipe(tmp_path, marked),
        "model.text={kind: 'tests.train.toy_tower:ToyText', nan_on_rank: 1}",
    )
    process = launch(["torchrun.sh"], recipe, "name=nan", broken, "log.wandb=offline", WANDB_SILENT="true")
    output = finish(process)
    assert process.returncode != 0 and "keys of the batch: " in output
    assert said(output, tmp_path / "runs") == []
