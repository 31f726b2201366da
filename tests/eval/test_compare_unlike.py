"""`compare` of runs that differ in more than the model: it says in what, or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run, score


def other_suite(folder: Path, **settings: Any) -> str:
    task = {"id": "same", "family": "retrieval", "size": 20, **settings}
    folder.mkdir()
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    return str(folder / "suite.yaml")


def test_other_settings_and_data_are_told_and_other_families_refused(
    run: Run, shards: Path, planted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, settings in (
        ("one", {}),
        ("two", {"ties": "pessimistic"}),
        ("three", {"family": "mismatch", "edits": ["report"]}),
    ):
        suite = other_suite(tmp_path / name, **settings)
        assert score(run, shards, tmp_path / name / "run", "tests.eval.factories:random", suite=suite) == 0
    one, two, three = (tmp_path / name / "run" for name in ("one", "two", "three"))
    capsys.readouterr()
    assert run("compare", one, one, "--resamples", 20) == 0 and "differ:" not in capsys.readouterr().out
    assert run("compare", one, two, "--resamples", 20) == 0
    assert "same: the settings or prompts of the task differ" in " ".join(capsys.readouterr().out.split())
    assert run("compare", one, three, "--resamples", 20) == 2
    assert "family 'retrieval'" in capsys.readouterr().err
    content = json.loads((one / "results.json").read_text())
    content["tasks"][0]["data"]["data_digest"] = "0" * 64
    (two / "results.json").write_text(json.dumps(content))
    assert run("compare", one, two, "--resamples", 20) == 0
    assert "same: the digests of the data differ" in " ".join(capsys.readouterr().out.split())
