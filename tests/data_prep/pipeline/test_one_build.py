"""Several builds of one folder: of a job array all work, of two others the second is refused; nothing is mixed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlp.data.shards.verify import verify
from vlp_prep.cli import main

N = 300
OPTIONS = ["--n", str(N), "--size", "64", "--shard-size", "25", "--workers", "0"]


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vlp_prep.cli", "build", "synthetic", *OPTIONS, "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(out: Path, process: subprocess.Popen[str], number: int = 1) -> None:
    while len(list(out.glob("*.tar"))) < number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_second_build_is_told_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    first = start(out)
    wait_for_shards(out, first)
    command = ["build", "synthetic", *OPTIONS, "--out", str(out)]
    os.kill(first.pid, signal.SIGSTOP)
    for words in ("--seed 1", "--seed 1 --overwrite", "--overwrite", "--resume", "--shard-of 0/2 --resume"):
        assert main([*command, *words.split()]) == 2, words
        said = capsys.readouterr().err
        if words != "--seed 1":  # whose options differ, which is said first
            assert f"pid {first.pid} on" in said and "is being written by" in said, (words, said)
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0, first.communicate()
    assert main(["build", "synthetic", *OPTIONS, "--out", str(tmp_path / "alone")]) == 0
    assert contents(out) == contents(tmp_path / "alone") and verify(out) == []


def test_two_builds_that_start_together_leave_the_set_of_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start(out, "--seed", str(seed)) for seed in (0, 1)]
    codes = [process.wait() for process in both]
    said = [process.communicate()[1] for process in both]
    assert sorted(codes) == [0, 2], said
    assert (
        verify(out) == []
        and main(["build", "synthetic", *OPTIONS, "--out", str(tmp_path / "alone"), "--seed", str(codes.index(0))]) == 0
    )
    assert contents(out) == contents(tmp_path / "alone")


def test_the_jobs_of_an_array_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    jobs = [start(out, "--shard-of", f"{part}/3") for part in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0], [job.communicate()[1] for job in jobs]
    assert main(["build", "synthetic", *OPTIONS, "--out", str(tmp_path / "alone")]) == 0
    assert contents(out) == contents(tmp_path / "alone")


def test_an_overwrite_takes_its_own_and_leaves_what_else_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["build", "synthetic", "--n", "60", "--size", "32", "--out", str(out)]
    assert main(command) == 0
    (out / "mine.tar").write_text("kept")
    assert main([*command, "--seed", "5"]) == 2
    assert main([*command, "--seed", "5", "--overwrite"]) == 0
    assert (out / "mine.tar").read_text() == "kept"
    (tmp_path / "other" / ".build").mkdir(parents=True)
    (tmp_path / "other" / "train-000000.tar").write_text("kept")
    (tmp_path / "other" / ".build" / "train-000000.json").write_text("{}")
    assert main([*command[:-1], str(tmp_path / "other"), "--overwrite"]) == 2
    assert "was not made by vlp-prep build" in capsys.readouterr().err
    assert (tmp_path / "other" / "train-000000.tar").read_text() == "kept"


def test_workers_end_with_a_killed_build(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, "--workers", "2", "--n", "5000")
    wait_for_shards(out, process)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while alive := [pid for pid in children if is_running(pid)]:
        assert time.monotonic() < end, f"{alive} outlive the build"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
