"""A record that gets its process killed, as one that exhausts the memory does: named, and left out by `--resume`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_prep.sources import trees
from vlp_prep.cli import main

OWN_SOURCE = '''
import os, signal
from vlp.sample import Report, Sample
from vlp_prep.sources.base import Record, Source

class Deadly(Source):
    """A source of which one record kills the process that reads it, or cannot have the memory that it needs."""
    name = "deadly"

    def records(self):
        for number in range(40):
            yield Record(f"k{number}", {"number": number})

    def sample(self, record):
        if record.data["number"] == 21:
            os.kill(os.getpid(), signal.SIGKILL)
        if record.data["number"] == 7:
            raise MemoryError
        return Sample(record.key, self.raw / "a.png", Report("Clear lungs."))
'''


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_on_which_a_process_was_killed_is_left_out_when_the_build_goes_on(
    workers: int, tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    trees.picture(raw / "a.png", 1)
    (tmp_path / "deadly_source.py").write_text(OWN_SOURCE)
    words = ["build", "deadly_source:Deadly", "--raw", str(raw), "--out", str(out), "--split", "none"]
    words += ["--workers", str(workers), "--max-rejected", "1", "--shard-size", "10"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def build(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "import sys; from vlp_prep.cli import main; sys.exit(main())", *words, *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    first = build()
    if workers:
        assert first.returncode == 2 and "killed at record 'k21'" in first.stderr and "Traceback" not in first.stderr
    else:  # the whole build was killed: that may have been the user, so the record is tried once more
        assert first.returncode == -signal.SIGKILL
        assert build("--resume").returncode == -signal.SIGKILL
    last = build("--resume")
    assert last.returncode == 0, last.stderr
    assert "read 40 = written 38 + rejected 2 (killed 1, out_of_memory 1)" in last.stdout
    assert "where that was you, --overwrite tries them again" in last.stdout
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in rejected] == [("k7", "out_of_memory"), ("k21", "killed")]
    assert not list((out / ".build").glob(".at-*"))
    assert main(["verify", str(out)]) == 0
