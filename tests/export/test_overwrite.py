"""`vlp-export --overwrite` replaces an export of its own and nothing else."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.export.test_formats import VIT, native
from vlp import hub
from vlp.core.output import LOCK, hold
from vlp.export import cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with its one checkpoint; what is exported is not loaded again here."""
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    loaded = native(image=VIT)
    hub.save_pretrained(folder, loaded.model, loaded.preprocess, loaded.tokenizer)
    (tmp_path / "run" / "last").symlink_to(folder)
    (tmp_path / "run" / "log.jsonl").write_text("{}\n")
    nothing: list[str] = []
    monkeypatch.setattr("vlp.export.verify.check", lambda *_: nothing)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_run_itself_and_other_folders_stay(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path / "other")
    for target in (
        run, run / "checkpoints", run / "last", run / "last" / "inside", tmp_path, Path("/"),
        tmp_path / "other", Path(), tmp_path / "file",
    ):  # fmt: skip
        code = cli.main([str(run), "--to", str(target), "--overwrite"])
        said = capsys.readouterr().err
        assert code == 2 and len(said.splitlines()) == 1 and "choose another" in said, (target, said)
        assert contents(tmp_path) == before


def test_an_export_is_replaced_unless_more_lies_in_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = run / "export"
    command = [str(run / "last"), "--to", str(target)]
    assert cli.main(command) == 0
    assert cli.main(command) == 2 and "--overwrite" in capsys.readouterr().err
    (target / "README.md").write_text("old")
    assert cli.main([*command, "--overwrite"]) == 0
    assert (target / "README.md").read_text() != "old" and (target / LOCK).is_file()
    (target / "notes.txt").write_text("kept")
    assert cli.main([*command, "--overwrite"]) == 2 and "notes.txt" in capsys.readouterr().err
    assert (target / "notes.txt").read_text() == "kept"
    assert sorted(os.listdir(run)) == ["checkpoints", "export", "last", "log.jsonl"]


def test_a_failed_export_leaves_the_old_one_and_no_parts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(run), "--to", str(tmp_path / "out"), "--overwrite"]
    assert cli.main(command) == 0
    before = contents(tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("vlp.export.model_card.render", full)
    assert cli.main(command) == 1 and "no space is left" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before and sorted(os.listdir(tmp_path)) == ["out", "run"]


def test_a_second_export_to_the_same_place_is_told_of_the_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / ".out.vlp-partial", "vlp-export"):
        assert cli.main([str(run), "--to", str(tmp_path / "out")]) == 2
    assert f"pid {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
