"""`--overwrite`: an error or a kill at any of its renames leaves the old set or the new one whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_prep.pipeline.built import build, samples
from tests.data_prep.sources import trees
from vlp_prep.cli import main


def words(raw: Path) -> list[str]:
    out = str(raw.parent / "out")
    return ["build", "pairs", "--raw", str(raw), "--out", out, "--split", "none", "--workers", "0", "--shard-size", "1"]


def texts(out: Path) -> dict[str, str]:
    return {key: sample.report.text for key, sample in samples(out).items() if sample.report}


def prepare(tmp_path: Path) -> tuple[list[str], Path]:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        trees.picture(raw / f"{number}.png", number)
    trees.put(raw / "pairs.csv", "image,report\n0.png,old\n1.png,old\n")
    assert main(words(raw)) == 0
    trees.put(raw / "pairs.csv", "image,report\n0.png,new\n1.png,new\n2.png,new\n")
    return [*words(raw), "--overwrite"], out


OLD, NEW = {"0": "old", "1": "old"}, {"0": "new", "1": "new", "2": "new"}
KILLED = """
import os, sys
from vlp_prep.pipeline import replacement
from vlp_prep.cli import main
real, left = os.replace, [int(sys.argv[1])]
def replace(*places):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    real(*places)
replacement.os = type(os)("os")
replacement.os.replace = replace
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("failing", [0, 3, 7, 12, 15])
def test_a_rename_that_fails_leaves_the_old_set(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, out = prepare(tmp_path)
    before = {
        path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.suffix != ".lock" and path.is_file()
    }
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("vlp_prep.pipeline.replacement.os.replace", replace)
    code = main(command)
    monkeypatch.undo()
    assert code == 1 and len(calls) > failing
    assert texts(out) == OLD
    after = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {name: after.get(name) for name in before} == before and not (out / ".replaced").exists()
    build(*command[1:])
    assert texts(out) == NEW and not (out / ".overwrite").exists() and not (out / ".replaced").exists()


@pytest.mark.parametrize("left", [0, 4, 9, 16])
def test_a_kill_is_undone_or_finished_by_the_next_build(left: int, tmp_path: Path) -> None:
    command, out = prepare(tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(left), *command], capture_output=True, text=True)
    assert ended.returncode == 9, ended.stderr
    if (out / "manifest.jsonl").exists():
        assert texts(out) in (OLD, NEW)
    if left < 16:
        resumed = [word for word in command if word != "--overwrite"]
        trees.put(tmp_path / "raw" / "pairs.csv", "image,report\n0.png,old\n1.png,old\n")
        assert main([*resumed, "--resume"]) == 0
        assert texts(out) == OLD and not (out / ".replaced").exists()
    trees.put(tmp_path / "raw" / "pairs.csv", "image,report\n0.png,new\n1.png,new\n2.png,new\n")
    build(*command[1:])
    assert texts(out) == NEW and not (out / ".replaced").exists() and not (out / ".overwrite").exists()
