"""What the machine refuses is an error in words, in all four commands: disks that are full or read-only, no permission."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import warm
from vlp.core.config import ConfigError
from vlp.core.errors import FAILED, WRONG, in_words, report
from vlp_prep.cli import main as prep


@pytest.fixture(params=["size=300k", "size=1m,ro"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small disk, and one that is read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_build_on_a_full_or_read_only_disk_is_one_line_and_leaves_no_parts(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--workers", "0"], ["--workers", "2", "--overwrite"]):
        code = prep(["build", "synthetic", "--n", "600", "--size", "128", "--out", str(place / "set"), *words])
        said = capsys.readouterr().err
        assert code == FAILED and "Traceback" not in said, said
        assert any(words in said for words in ("no space is left on the device", "the file system is read-only")), said
        left = [path.name for path in place.rglob("*")]
        assert not [name for name in left if "partial" in name or name.endswith(".part")], left
        assert "manifest.jsonl" not in left


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("vlp_prep.cli", ["split", "SET", "--out", "PLACE"]),
        ("vlp_prep.cli", ["tokenizer", "SET", "--out", "PLACE", "--kind", "wordpiece", "--vocab-size", "300"]),
        ("vlp_prep.cli", ["dedup", "SET", "--thin", "PLACE"]),
        ("vlp_eval.cli", ["run", "--model", "MODEL", "--suite", "synthetic", "--data", "SET", "--out", "PLACE"]),
        ("vlp.export.cli", ["MODEL", "--to", "PLACE"]),
    ],
)
def test_a_place_that_is_a_file_or_below_one_is_one_line(module: str, words: list[str], tmp_path: Path) -> None:
    assert prep(["build", "synthetic", "--n", "24", "--size", "32", "--out", str(tmp_path / "set")]) == 0
    (tmp_path / "file").write_text("kept")
    names = {"SET": tmp_path / "set", "PLACE": tmp_path / "file" / "below", "MODEL": tmp_path / "set"}
    command = [sys.executable, "-m", module, *(str(names.get(word, word)) for word in words)]
    done = warm.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (FAILED, WRONG) and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), FAILED, "/x: no space is left on the device"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), FAILED, "quota"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), FAILED, "/x: the file system is read-only"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), WRONG, "/x: no permission"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), FAILED, "ulimit -n"),
        (RuntimeError("unable to open shared memory object </x>: Too many open files (24)"), FAILED, "ulimit -n"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), FAILED, "no space is left"),
        (ConfigError("data.train: no\nsuch set"), WRONG, "data.train: no such set"),
    ],
)
def test_one_rule_gives_words_and_exit_code(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("vlp-x", error) == code
    said = capsys.readouterr().err
    assert words in said and said.startswith("vlp-x: ") and len(said.splitlines()) == 1


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_words(TypeError("x")) is None
    assert report("vlp-x", TypeError("a bug")) == FAILED
    assert "TypeError: a bug" in capsys.readouterr().err
