"""Builds as they run: killed or interrupted with real signals, and watched on a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlp.data.shards.verify import verify
from vlp_prep.cli import main

SIZE, N = 20, 400
OPTIONS = ["--n", str(N), "--size", "32", "--shard-size", str(SIZE)]

COUNTING = """
import sys
from pathlib import Path
from vlp_prep.pipeline.build import Build
from vlp_prep.pipeline.options import BuildOptions

def main():
    log = open(sys.argv[2], "w")
    def report(event, number):
        if event == "written":
            log.write(".")
            log.flush()
    source = {"kind": "synthetic", "n": int(sys.argv[3]), "size": 32}
    with Build(BuildOptions(source=source, out=Path(sys.argv[1]),
                               workers=2, shard_size=int(sys.argv[4]))) as build:
        build.run(report)

if __name__ == "__main__":
    main()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def finished(out: Path) -> dict[str, int]:
    """Return the shards that a build says are there, and their numbers of samples."""
    states = (json.loads(path.read_text()) for path in (out / ".build").glob("*-[0-9]*.json"))
    return {json.loads(one["entry"])["shard"]: one["tally"]["samples"] for one in states if one["entry"]}


def hear_ctrl_c() -> None:
    """A shell's background jobs ignore SIGINT, and so do their children: the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_after(command: list[str], out: Path, shards: int, how: signal.Signals) -> tuple[int, str]:
    """Start a command in a group of its own, send it a signal when that many shards are there; return code and stderr."""
    running = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        while running.poll() is None and len(list(out.glob("*.tar"))) < shards:
            time.sleep(0.01)
        assert running.poll() is None, "finished before it could be stopped"
        os.killpg(running.pid, how)
        _, said = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    return running.returncode, said.decode()


def resume_and_compare(out: Path, whole: Path) -> None:
    kept = {name: (out / name).stat().st_mtime_ns for name in finished(out)}
    assert kept and len(kept) < N // SIZE and not (out / "manifest.jsonl").exists()
    for folder, words in ((out, ["--resume"]), (whole, [])):
        assert main(["build", "synthetic", *OPTIONS, "--workers", "0", "--out", str(folder), *words]) == 0
    assert contents(out) == contents(whole) and verify(out) == []
    assert all((out / name).stat().st_mtime_ns == at for name, at in kept.items()), "a finished shard was made again"


def test_kill_9_loses_no_more_than_one_shard_and_resuming_ends_it(tmp_path: Path) -> None:
    script, log, out = tmp_path / "count.py", tmp_path / "log", tmp_path / "out"
    script.write_text(COUNTING)
    command = [sys.executable, str(script), str(out), str(log), str(N), str(SIZE)]
    code, _ = stop_after(command, out, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    written, safe = len(log.read_text()), sum(finished(out).values())
    assert safe >= 2 * SIZE and 0 <= written - safe <= SIZE
    resume_and_compare(out, tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_is_one_line_and_resuming_ends_it(workers: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "vlp_prep.cli", "build", "synthetic", *OPTIONS, "--workers", str(workers)]
    code, said = stop_after([*command, "--out", str(out)], out, 3, signal.SIGINT)  # to the whole group, as terminals do
    assert code == 130 and "Traceback" not in said, said
    assert said.strip().splitlines()[-1] == (
        "vlp-prep build: interrupted; --resume goes on from the last finished shard"
    )
    resume_and_compare(out, tmp_path / "whole")


def test_a_terminal_shows_progress_rate_and_time_to_go(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vlp_prep.cli", "build", "synthetic", *OPTIONS, "--out", str(tmp_path / "out")]
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [*command, "--workers", "0"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass  # the other end was closed: the command is done
    assert running.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    under_way = re.findall(rf"(\d+)/{N} (\d+) samples/s 0 rejected (\d+:\d\d:\d\d)", shown)
    assert any(0 < int(done) < N and int(rate) > 0 for done, rate, _ in under_way), shown[-2000:]
