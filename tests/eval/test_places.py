"""Where a run writes: below its own folder, never over another's results, never among shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run, score
from vlp.core.config import ConfigError
from vlp_eval import results, suite

pytestmark = pytest.mark.usefixtures("planted")
NAMES = ["../../x", "/x", "a/b", "..", ".hidden", "", "x\n", "x\x1b[31m", "C:\\x", "a" * 300, "ünï", "a b", "~x"]


def suite_file(folder: Path, *tasks: dict[str, Any], name: str = "suite.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_an_id_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="id"):
        suite.read(str(suite_file(tmp_path, {"id": name, "family": "retrieval"})))


@pytest.mark.parametrize(
    "data", [{"folder": "/etc"}, {"folder": "../other"}, {"table": "../../t.csv"}, {"table": "/t.csv"}]
)
def test_data_lies_below_the_folder_that_the_user_names(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="below --data"):
        suite.read(str(suite_file(tmp_path, {"id": "t", "family": "retrieval", "data": data})))


def test_ids_that_differ_in_capitals_alone_are_one_file(tmp_path: Path) -> None:
    path = suite_file(tmp_path, {"id": "a", "family": "retrieval"}, {"id": "A", "family": "retrieval"})
    with pytest.raises(ConfigError, match="'A' is given twice, as 'a'"):
        suite.read(str(path))


def test_a_task_may_be_called_training(run: Run, shards: Path, tmp_path: Path) -> None:
    path = suite_file(tmp_path, {"id": "training", "family": "retrieval", "size": 10})
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", suite=str(path)) == 0
    assert run("report", tmp_path / "out") == 0


@pytest.mark.parametrize("part", ["samples", "figures"])
def test_results_that_name_files_elsewhere_are_refused(
    part: str, run: Run, shards: Path, tmp_path: Path, capsys: Any
) -> None:
    path = suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 10})
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:perfect", suite=str(path)) == 0
    tree = results.read(tmp_path / "out")
    tree["tasks"][0][part] = "../secret.json"
    (tmp_path / "secret.json").write_text('{"id": "secret"}')
    (tmp_path / "out" / "results.json").write_text(json.dumps(tree))
    assert run("report", tmp_path / "out") == 2 and run("compare", tmp_path / "out", tmp_path / "out") == 2
    assert f"{part}" in capsys.readouterr().err


def test_results_of_another_suite_or_model_are_not_written_over(
    run: Run, shards: Path, tmp_path: Path, capsys: Any
) -> None:
    first = suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 10})
    other = suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 12}, name="other.yaml")
    out = tmp_path / "out"
    assert score(run, shards, out, "tests.eval.factories:perfect", suite=str(first)) == 0
    kept = (out / "results.json").read_bytes()
    for model, asked in (("tests.eval.factories:random", first), ("tests.eval.factories:perfect", other)):
        for more in ([], ["--resume"]):
            assert score(run, shards, out, model, *more, suite=str(asked)) == 2
            assert "choose another" in capsys.readouterr().err
            assert (out / "results.json").read_bytes() == kept
    suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 13})  # the same file, changed
    assert score(run, shards, out, "tests.eval.factories:perfect", suite=str(first)) == 2
    suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 10})
    assert score(run, shards, out, "tests.eval.factories:perfect", suite=str(first)) == 0  # as before: scored anew


def test_a_run_never_writes_among_shards(run: Run, shards: Path, tmp_path: Path, capsys: Any) -> None:
    before = sorted(path.name for path in shards.rglob("*"))
    path = suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 10})
    link = tmp_path / "link"
    link.symlink_to(shards)
    for out in (shards, shards / "eval", shards / "a" / "b", link / "eval"):
        assert score(run, shards, out, "tests.eval.factories:perfect", suite=str(path)) == 2
        assert "a folder of shards" in capsys.readouterr().err
    model = ["--model", "tests.eval.factories:perfect", "--suite", path, "--data", shards]
    assert run("embed", *model, "--out", shards / "cache") == 2
    assert run("run", *model, "--out", tmp_path / "out", "--cache", shards / "cache") == 2
    assert "--cache" in capsys.readouterr().err
    bare = tmp_path / "unindexed"
    bare.mkdir()
    (bare / "0.tar").write_bytes(b"")
    assert score(run, shards, bare, "tests.eval.factories:perfect", suite=str(path)) == 2
    assert sorted(path.name for path in shards.rglob("*")) == before


@pytest.mark.parametrize("content", ["my notes", "{}", "[]", '{"grid": [1]}'])
def test_embeddings_never_go_among_files_of_others(
    content: str, run: Run, shards: Path, tmp_path: Path, capsys: Any
) -> None:
    path = suite_file(tmp_path, {"id": "t", "family": "retrieval", "size": 10})
    words = ["embed", "--model", "tests.eval.factories:perfect", "--suite", path, "--data", shards, "--out"]
    (tmp_path / "a" / "text").mkdir(parents=True)
    (tmp_path / "a" / "card.json").write_text(content)
    assert run(*words, tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert "is no card of embeddings" in said and "Traceback" not in said
    assert (tmp_path / "a" / "card.json").read_text() == content
    (tmp_path / "a" / "card.json").unlink()
    (tmp_path / "a" / "text" / "00000.safetensors").write_text(content)
    assert run(*words, tmp_path / "a") == 2
    said = capsys.readouterr()
    assert "holds no embeddings of vlp-eval" in said.out + said.err
