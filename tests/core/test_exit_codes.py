"""One rule of errors for the four commands: what each of them prints and returns when something stops it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from vlp.core.errors import ConfigError
from vlp.data.collate import LoaderError

COMMANDS = {
    "vlp-train": ("vlp.train.cli", ["recipe.yaml"], "vlp.train.recipe", "load_recipe"),
    "vlp-eval": ("vlp_eval.cli", ["ls"], "vlp_eval.commands", "ls"),
    "vlp-prep": ("vlp_prep.cli", ["sources"], "vlp_prep.commands.sources", "run"),
    "vlp-export": ("vlp.export.cli", ["run", "--to", "out"], "vlp.hub", "locate"),
}
"""Of each command its module, a command line, and the function where the work begins."""

WRONG_INPUT = {
    "vlp-train": ["no.yaml"],
    "vlp-eval": ["ls", "--suite", "no.yaml"],
    "vlp-prep": ["verify", "no-folder"],
    "vlp-export": ["no/such/run", "--to", "out"],
}
LISTING = {"vlp-train": ["--help"], "vlp-eval": ["ls"], "vlp-prep": ["sources"], "vlp-export": ["--help"]}

every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Callable[[], Any]], int]:
    """Return what runs a command whose work begins with an action, and gives its exit code."""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def run(command: str, action: Callable[[], Any]) -> int:
        cli, words, module, name = COMMANDS[command]
        monkeypatch.setattr(import_module(module), name, lambda *_: action())
        code: int = import_module(cli).main(words)
        return code

    yield run
    signal.signal(signal.SIGINT, before)


def raising(error: BaseException) -> Callable[[], Any]:
    def action() -> None:
        raise error

    return action


@every_command
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("the data is wrong"), 2, "the data is wrong"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), 2, "/x: no permission"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), 1, "/x: no space is left on the device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), 1, "/x: the file system is read-only"),
        (MemoryError(), 1, "no memory is left"),
        (LoaderError("too much of it"), 1, "too much of it"),
    ],
)
def test_what_stops_a_command_is_one_line_and_a_code(
    command: str, error: Exception, code: int, words: str, stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped(command, raising(error)) == code
    said = capsys.readouterr().err
    assert said.startswith(f"{command}") and words in said and len(said.splitlines()) == 1


@every_command
def test_a_traceback_is_for_bugs_and_for_who_asks(
    command: str, stopped: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (KeyError("P-77"), ValueError("a bug"), TypeError("a bug")):
        assert stopped(command, raising(error)) == 1
        assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("VLP_TRACEBACK", "1")
    assert stopped(command, raising(ConfigError("the data is wrong"))) == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and said.endswith(": the data is wrong\n")


@every_command
def test_ctrl_c_is_one_line_and_130(command: str, stopped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(command, lambda: signal.raise_signal(signal.SIGINT)) == 130
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(command) and ": interrupted" in said[0]


@every_command
def test_a_pipe_of_others_that_breaks_is_told(command: str, stopped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped(command, raising(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))) == 2
    assert "broken pipe" in capsys.readouterr().err


@every_command
def test_wrong_input_is_one_line_and_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_module(COMMANDS[command][0]).main(WRONG_INPUT[command]) == 2
    said = capsys.readouterr().err
    assert said.startswith(command) and "no such" in said and len(said.splitlines()) == 1
    with pytest.raises(SystemExit) as stop:
        import_module(COMMANDS[command][0]).main([*COMMANDS[command][1], "--no-such-option"])
    assert stop.value.code == 2


@every_command
def test_a_reader_that_leaves_is_quiet_and_141(command: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", COMMANDS[command][0], *LISTING[command]]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_documents_name_the_codes() -> None:
    readme = (ROOT / "README.md").read_text()
    for code in (0, 1, 2, 3, 130, 141):
        assert f"\n| {code} | " in readme
    assert all(code in (ROOT / "docs" / "evaluation.md").read_text() for code in ("130", "141"))
