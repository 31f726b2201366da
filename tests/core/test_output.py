"""Output folders: one process at a time, with its name in the message; nothing goes but what carries our mark."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlp.core.config import ConfigError
from vlp.core.output import LOCK, InUseError, check_apart, hold, mark, partial_of, remove, whole

HOLDER = """
import os, sys, time
from pathlib import Path
from vlp.core.output import hold
with hold(Path(sys.argv[1]), "test"):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def start(*arguments: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *map(str, arguments)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path / "out")
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    with pytest.raises(InUseError) as error, hold(tmp_path / "out", "test"):
        pass
    said = str(error.value)
    assert str(tmp_path / "out") in said and f"pid {holder.pid} on {os.uname().nodename} since 20" in said, said
    assert time.monotonic() - began < 5
    with pytest.raises(InUseError):
        remove(tmp_path / "out", "test")
    assert (tmp_path / "out").is_dir()


def test_kill_9_leaves_no_lock_even_while_a_forked_child_lives(tmp_path: Path) -> None:
    process = start(tmp_path / "out", "fork")
    process.kill()
    process.wait()
    try:
        with hold(tmp_path / "out", "test"):
            assert json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == os.getpid()
            (tmp_path / "out" / "file").touch()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert json.loads((tmp_path / "out" / LOCK).read_text()) == {"made_by": "test"}


def test_a_process_whose_launcher_is_gone_is_waited_for(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "out" / LOCK
    content = json.loads(path.read_text())
    content["launchers"] = {"999999": "1"}
    path.write_text(json.dumps(content))
    ending = subprocess.Popen(["sh", "-c", f"sleep 2; kill -9 {holder.pid}"])
    with hold(tmp_path / "out", "test"):
        assert ending.wait() == 0


def test_a_folder_that_is_not_ours_is_refused_and_one_that_stays_empty_goes(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    with (
        pytest.raises(ConfigError, match="holds tokenizer and was not made by test"),
        hold(tmp_path, "test", ["tokenizer", "last"]),
    ):
        pass
    assert not (tmp_path / LOCK).exists()
    with hold(tmp_path / "new", "test"):
        pass
    assert not (tmp_path / "new").exists()
    with hold(tmp_path / "new", "test", ["a"]):
        (tmp_path / "new" / "a").write_text("a")
    assert mark(tmp_path / "new") == "test" and mark(tmp_path) is None
    with hold(tmp_path / "new", "test", ["a"]):  # marked: what is there is ours
        pass
    with pytest.raises(ConfigError, match="not made by other"), hold(tmp_path / "new", "other", ["a"]):
        pass


def test_only_what_carries_the_mark_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, target = tmp_path / "theirs", tmp_path / "ours", tmp_path / "target"
    for folder in (theirs, target):
        folder.mkdir()
        (folder / "file").write_text("kept")
    with hold(ours, "test"):
        for name in ("a", "b"):
            (ours / name).mkdir()
        (ours / "link").symlink_to(target)
    for path, made_by in ((theirs, "test"), (theirs / "file", "test"), (ours, "other"), (ours / "a", "other")):
        with pytest.raises(ConfigError, match="was not made by"):
            remove(path, made_by)
    for source in (ours / "a", ours / "a" / "below", ours):
        with pytest.raises(ConfigError, match="choose another folder"):
            remove(ours / "a", "test", source)
    (ours / "a" / "deeper").mkdir()
    monkeypatch.chdir(ours / "a" / "deeper")
    with pytest.raises(ConfigError, match="choose another folder"):
        remove(ours / "a", "test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(ours / "a"))
    with pytest.raises(ConfigError, match="choose another folder"):
        remove(ours, "test")
    monkeypatch.undo()
    remove(ours / "link", "test")
    remove(ours / "nothing", "other")
    remove(ours / "b", "test")
    remove(ours, "test")
    partial = partial_of(theirs / "x")
    partial.mkdir()
    remove(partial, "test")
    assert not ours.exists() and not partial.exists()
    assert (theirs / "file").read_text() == (target / "file").read_text() == "kept"


def test_an_output_folder_may_not_be_or_hold_or_lie_in_a_source(tmp_path: Path) -> None:
    for path in (tmp_path / "a", tmp_path, tmp_path / "a" / "b", Path("/")):
        with pytest.raises(ConfigError):
            check_apart(path, tmp_path / "a")
    check_apart(tmp_path / "b", tmp_path / "a")


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole(path) as file:
        file.write("new")
    with pytest.raises(TypeError), whole(path) as file:
        file.write(b"newer")  # type: ignore[arg-type]
    assert path.read_text() == "new" and sorted(os.listdir(tmp_path)) == ["file"]
