"""Where a run lies and reads: odd paths, a moved data folder, folders of others, a second process, a disk that is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.train.conftest import environment, run, start
from tests.train.test_run import wait_for
from vlp.train.cli import main


def code_of(*words: Any) -> int:
    """Return the exit code of the command, in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


SHORT = ("train.samples=16", "data.workers=0")


@pytest.mark.parametrize("name", ["a\nb", "a b #2", 'it\'s "so"', "{x}", "bücher", "-dash", "a: b"])
def test_a_path_may_hold_anything(
    recipe: Path, shards: Path, tmp_path: Path, name: str, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(shards, tmp_path / name)
    assert main([str(recipe), f"data.train={data}", f"out={tmp_path / 'o'}{name}", "name=n #1", *SHORT]) == 0, (
        capsys.readouterr().err
    )
    assert (tmp_path / f"o{name}" / "n #1" / "last").is_dir()
    again = [str(recipe), f"data.train={data}", f"out={tmp_path / 'o'}{name}", "name=n #1", *SHORT, "--resume"]
    assert main(again) == 0, capsys.readouterr().err


def test_moved_data_is_gone_on_with_and_other_data_is_not(
    recipe: Path, shards: Path, tmp_path: Path, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shutil.copytree(shards, tmp_path / "first")
    assert main([str(recipe), f"data.train={first}", "name=m", *SHORT]) == 0
    first.rename(tmp_path / "second")
    words = [str(recipe), f"data.train={tmp_path / 'second'}", "name=m", *SHORT, "--resume"]
    assert main(words) == 0, capsys.readouterr().err
    lines = (tmp_path / "second" / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "second" / "manifest.jsonl").write_text("".join([*lines[1:], lines[0]]))
    assert code_of(*words) == 2 and "the training data was" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizer", "log.jsonl", "recipe.yaml", "checkpoints"])
def test_a_folder_of_others_is_left_as_it_is(
    recipe: Path, tmp_path: Path, name: str, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    if "." in name:
        (folder / name).write_text("kept")
    else:
        (folder / name).mkdir()
        (folder / name / "file").write_text("kept")
    for words in ([], ["--resume"]):
        assert code_of(recipe, "name=mine", *SHORT, *words) == 2
        assert f"holds {name} and was not made by vlp-train" in capsys.readouterr().err
    assert os.listdir(folder) == [name]
    assert (folder / name if "." in name else folder / name / "file").read_text() == "kept"


def test_a_second_resume_is_refused_and_the_first_goes_on(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, "name=held", "train.samples=1000000", "train.checkpoint_every_steps=2", "data.workers=0")
    try:
        wait_for(lambda: (tmp_path / "runs" / "held" / "last").exists())
        second = run(recipe, "name=held", "train.samples=1000000", "train.checkpoint_every_steps=2", "--resume")
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert f"is being written by pid {process.pid} on" in second.stderr
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    third = run(recipe, "name=held", "train.samples=1000000", "train.checkpoint_every_steps=2", "--resume", "--plan")
    assert third.returncode == 0, third.stderr


LIMITED = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); from vlp.train.cli import main; "
)


@pytest.mark.parametrize("number", [28, 36, 48])
def test_few_file_handles_end_a_run_in_words(recipe: Path, number: int) -> None:
    start_it = subprocess.run if number == 28 else warm.run  # the fewest are for imports too
    done = start_it(
        [sys.executable, "-c", LIMITED.format(number) + "sys.exit(main())", str(recipe), f"name=few{number}", "data.workers=2"],
        capture_output=True, text=True, env=environment(), timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or f"`ulimit -n` is {number}" in done.stderr.splitlines()[-1]


@pytest.fixture
def full(tmp_path: Path) -> Any:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_ends_a_run_in_words(
    recipe: Path, full: Path, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (full / "filler").write_bytes(bytes(900_000))
    code, said = code_of(recipe, f"out={full}", "name=n", *SHORT), capsys.readouterr().err
    assert code == 1 and "Traceback" not in said, said
    assert "no space is left" in said.splitlines()[-1]
    assert not list(full.rglob("*.vlp-partial")) and not list(full.rglob("*.partial"))
