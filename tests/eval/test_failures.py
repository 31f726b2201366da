"""One task's failure, of whatever kind, ends that task alone, and the exit code says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run
from vlp_eval import results

pytestmark = pytest.mark.usefixtures("planted")
GOOD = {"id": "good", "family": "retrieval", "size": 20}
BAD: list[dict[str, Any]] = [
    {"id": "memory", "family": "tests.eval.plugins:Failing"},
    {"id": "memory_of_a_plan", "family": "tests.eval.plugins:Failing", "at": "plan"},
    {"id": "runtime", "family": "tests.eval.plugins:Failing", "error": "RuntimeError"},
    {"id": "index", "family": "tests.eval.plugins:Failing", "error": "IndexError"},
    {"id": "key", "family": "tests.eval.plugins:Failing", "error": "KeyError"},
    {"id": "deep", "family": "tests.eval.plugins:Failing", "error": "RecursionError"},
    {"id": "no_number", "family": "tests.eval.plugins:Failing", "at": "never"},
    {"id": "unbuilt", "family": "tests.eval.plugins:Failing", "at": "build", "error": "ZeroDivisionError"},
    {"id": "no_family", "family": "retrievel"},
    {"id": "no_prompts", "family": "classification", "classes": ["nodule"], "prompts": ["nowhere"]},
    {"id": "typo", "family": "retrieval", "sise": 3},
    {"id": "../../out_of_the_folder", "family": "retrieval"},
    {"family": "retrieval"},
]


def suite_file(folder: Path, tasks: list[dict[str, Any]]) -> Path:
    path = folder / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    return path


def words(folder: Path, shards: Path, suite: Path) -> list[object]:
    model = ["--model", "tests.eval.factories:perfect", "--suite", suite, "--data", shards]
    return [*model, "--out", folder / "out", "--resamples", 20, "--no-html"]


def test_each_failure_ends_its_own_task_alone(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    suite = suite_file(tmp_path, [*BAD[:6], GOOD, *BAD[6:]])
    before = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents}
    assert run("run", *words(tmp_path, shards, suite)) == 3
    said = capsys.readouterr()
    tasks = {one["id"]: one for one in results.read(tmp_path / "out")["tasks"]}
    assert list(tasks)[6] == "good" and tasks["good"]["status"] == "ok"
    assert len(tasks) == 1 + len(BAD) and {"task-12", "task-13"} <= tasks.keys()
    for name, one in tasks.items():
        assert name == "good" or (one["status"] == "failed" and one["reason"]), one
        assert name == "good" or f"{name}: failed: " in said.out
    assert "MemoryError" in tasks["memory"]["reason"] and "ZeroDivisionError" in tasks["unbuilt"]["reason"]
    # of an unforeseen error the place, not its words: they may be a value of the data
    assert "KeyError at plugins.py, line" in tasks["key"]["reason"] and "P-77" not in tasks["key"]["reason"]
    assert "Traceback" not in said.out + said.err
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents} == before
    assert run("run", *words(tmp_path, shards, suite), "--resume") == 3


def test_an_interrupt_ends_the_run(run: Run, shards: Path, tmp_path: Path) -> None:
    stop = {"id": "stop", "family": "tests.eval.plugins:Failing", "error": "KeyboardInterrupt"}
    suite = suite_file(tmp_path, [GOOD, stop, GOOD | {"id": "after"}])
    assert run("run", *words(tmp_path, shards, suite)) == 130
    assert [one["id"] for one in results.read(tmp_path / "out")["tasks"]] == ["good"]


def test_a_suite_of_nothing_but_failures_is_exit_2(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("run", *words(tmp_path, shards, suite_file(tmp_path, BAD[7:]))) == 2
    assert "unknown task family 'retrievel'" in capsys.readouterr().err
    assert run("run", *words(tmp_path, shards, suite_file(tmp_path, BAD[:2]))) == 2


def test_embeddings_of_the_other_tasks_are_made(run: Run, shards: Path, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, [BAD[0], GOOD, BAD[7]])
    model = ["--model", "tests.eval.factories:perfect", "--suite", suite, "--data", shards, "--out", tmp_path / "cache"]
    assert run("embed", *model) == 3
    scored = ["--embeddings", tmp_path / "cache", "--suite", suite, "--data", shards, "--out", tmp_path / "scored"]
    assert run("score", *scored, "--resamples", 20, "--no-html") == 3
    assert [one["status"] for one in results.read(tmp_path / "scored")["tasks"]] == ["failed", "ok", "failed"]
