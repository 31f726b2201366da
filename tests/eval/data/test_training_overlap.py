"""`run` compares what it scores with what the checkpoint was trained on; published numbers never stand beside the latter."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp_eval import results
from vlp_eval.data.training_overlap import training_of
from vlp_prep.pipeline.shard_writer import ShardWriter

NUMBER = {"model": "SomebodysCLIP", "metric": "i2t_r@10", "value": 0.777, "source": "a paper", "tag": "R"}


def trained_on(tiny: Path, folder: Path, shards: Path | None, recipe: Path | None = None) -> Path:
    """Copy a model as a checkpoint that was trained on the train split of `shards`, by digests, and by `recipe`'s path."""
    shutil.copytree(tiny, folder)
    tree = json.loads((folder / "config.json").read_text())
    if shards is not None:
        part = Manifest.read(shards).select("train")
        tree["extra"] = {"trained_on": [{"digest": part.digest, "shards": [one.sha256[:16] for one in part.shards]}]}
        (folder / "config.json").write_text(json.dumps(tree))
    if recipe is not None:
        (folder / "recipe.yaml").write_text(json.dumps({"data": {"train": str(recipe), "batch_size": 4}}))
    return folder


def suite_of(folder: Path, split: str | None, table: bool = False) -> Path:
    data: dict[str, Any] = {"split": split}
    if table:
        data |= {"table": "t.csv", "columns": {"image": "file", "report": "text", "patient": "who"}}
    task = {"id": "t", "family": "retrieval", "size": 40, "data": data, "references": [NUMBER]}
    path = folder / f"{split}.yaml"
    path.write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    return path


def scored(
    run: Run, model: Path, suite: Path, data: Path, out: Path, capsys: Any
) -> tuple[dict[str, Any], str, str, str]:
    """Return the task's entry, what the terminal showed, the page, and the markdown table."""
    capsys.readouterr()
    assert run("run", "--model", model, "--suite", suite, "--data", data, "--out", out, "--resamples", 20) == 0
    said = capsys.readouterr().out
    assert run("report", out, "--md") == 0
    (entry,) = results.read(out)["tasks"]
    return entry, said, (out / "report.html").read_text(), capsys.readouterr().out


def withheld(found: tuple[dict[str, Any], str, str, str]) -> bool:
    entry, *texts = found
    known = entry["data"]["training"]["status"] == "found" and entry["references"] == []
    for text in texts[:2]:
        assert ("scored on the model&#39;s own training data" in text or "scored on the model's own" in text) == known
    assert all(("0.777" in text) != known for text in texts)
    return known


def copied(shards: Path, folder: Path, split: str, **changes: Any) -> Path:
    """Write a split again as `test`, with changed records: other shards, the same images."""
    source = ShardSet(Manifest.read(shards).select(split))
    with ShardWriter(folder, source=changes.pop("source", "synthetic"), version="2") as writer:
        for index in range(len(source)):
            sample = source.sample(index)
            made = {name: value(sample) for name, value in changes.items()}
            writer.write(replace(sample, split="test", source="", **made))
    return folder


def table_of(shards: Path, folder: Path, split: str, prefix: str = "") -> None:
    """Write a split as pictures with a table, without what shards say of themselves."""
    source = ShardSet(Manifest.read(shards).select(split))
    lines = ["file,text,who"]
    for index in range(len(source)):
        sample = source.sample(index)
        assert isinstance(sample.image, bytes) and sample.report is not None
        name = f"{prefix}{sample.key}.png"
        (folder / name).write_bytes(sample.image)
        lines.append(f'{name},"report {index}",{sample.patient}')
    (folder / "t.csv").write_text("\n".join(lines) + "\n")


def test_the_training_split_is_told_by_digests_and_the_test_split_is_not(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    model = trained_on(tiny, tmp_path / "model", shards)  # the training folder is gone, its digests are known
    entry, *_ = train = scored(run, model, suite_of(tmp_path, "train"), shards, tmp_path / "a", capsys)
    assert withheld(train) and entry["data"]["training"]["images"] == entry["data"]["n"]
    test = scored(run, model, suite_of(tmp_path, "test"), shards, tmp_path / "b", capsys)
    assert not withheld(test) and test[0]["data"]["training"]["status"] == "none"


def test_keys_and_patients_are_compared_where_the_training_folder_is_there(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    model, suite = trained_on(tiny, tmp_path / "model", None, recipe=shards), suite_of(tmp_path, "test")
    assert not withheld(scored(run, model, suite, shards, tmp_path / "a", capsys))
    # the same images under the same keys in other shards, with other reports
    again = copied(shards, tmp_path / "again", "train", groups=lambda one: {"state": one.key})
    assert withheld(scored(run, model, suite, again, tmp_path / "b", capsys))
    # other images of the same patients
    others = copied(shards, tmp_path / "others", "train", key=lambda one: f"new-{one.key}")
    entry, *_ = found = scored(run, model, suite, others, tmp_path / "c", capsys)
    assert withheld(found) and entry["data"]["training"]["patients"] > 0 == entry["data"]["training"]["images"]
    # the same keys of another source: other images, as it seems
    strangers = copied(shards, tmp_path / "strangers", "train", source="elsewhere", groups=lambda one: {"x": "y"})
    assert not withheld(scored(run, model, suite, strangers, tmp_path / "d", capsys))


def test_a_rebuilt_set_and_a_table_beside_digests_alone_are_not_called_clean(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    model = trained_on(tiny, tmp_path / "model", shards)
    again = copied(shards, tmp_path / "again", "train", groups=lambda one: {"state": one.key})
    (tmp_path / "set").mkdir()
    table_of(shards, tmp_path / "set", "train")
    for name, data, suite in (
        ("shards", again, suite_of(tmp_path, "test")),
        ("table", tmp_path / "set", suite_of(tmp_path, None, table=True)),
    ):
        entry, said, page, table = scored(run, model, suite, data, tmp_path / name, capsys)
        assert entry["data"]["training"]["status"] == "unknown" and "0.777" in table
        for text in (said, page):
            assert "own training data, published numbers stand beside it" in text.replace("&#39;", "'")
            assert "digests of shards only" in text


def test_a_table_is_compared_by_keys_and_its_patients_ids_are_told(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    model, suite = trained_on(tiny, tmp_path / "model", None, recipe=shards), suite_of(tmp_path, None, table=True)
    (tmp_path / "same").mkdir()
    table_of(shards, tmp_path / "same", "train")
    assert withheld(scored(run, model, suite, tmp_path / "same", tmp_path / "a", capsys))
    (tmp_path / "other").mkdir()
    table_of(shards, tmp_path / "other", "train", prefix="new")
    found = scored(run, model, suite, tmp_path / "other", tmp_path / "b", capsys)
    assert not withheld(found) and "have ids of training patients" in found[0]["data"]["training"]["reason"]


def test_what_is_not_known_is_said(run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any) -> None:
    suite = suite_of(tmp_path, "test")
    entry, said, _, table = scored(run, tiny, suite, shards, tmp_path / "a", capsys)
    assert entry["data"]["training"]["status"] == "unknown" and "0.777" in table
    assert "what the model was trained on is not known" in said
    gone = trained_on(tiny, tmp_path / "model", None, recipe=tmp_path / "gone")
    entry, *_ = scored(run, gone, suite, shards, tmp_path / "b", capsys)
    assert entry["data"]["training"]["status"] == "unknown" and "gone" in entry["data"]["training"]["reason"]


def test_a_cache_of_embeddings_remembers_the_training_data(
    run: Run, shards: Path, tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    model, suite = trained_on(tiny, tmp_path / "model", shards), suite_of(tmp_path, "train")
    assert run("embed", "--model", model, "--suite", suite, "--data", shards, "--out", tmp_path / "cache") == 0
    words = ["--embeddings", tmp_path / "cache", "--suite", suite, "--data", shards, "--out", tmp_path / "out"]
    assert run("score", *words, "--resamples", 20, "--no-html") == 0
    assert "own training data" in capsys.readouterr().out
    assert results.read(tmp_path / "out")["tasks"][0]["references"] == []
    assert "trained_on" not in results.read(tmp_path / "out")["model"]  # it may hold paths


def test_a_broken_note_of_the_training_data_is_none(tmp_path: Path) -> None:
    for content in (
        "[]",
        '{"extra": 3}',
        '{"extra": {"trained_on": [3]}}',
        "{",
        '{"extra": {"trained_on": [{"digest": 1}]}}',
    ):
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "recipe.yaml").write_text("data: {train: [3, {weight: 2}]}")
        assert training_of(tmp_path) is None


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_checkpoint_of_a_training_keeps_the_digests_of_its_shards(split: str, shards: Path) -> None:
    from vlp.data.config import DataConfig, SourceConfig
    from vlp.data.stream import Stream

    config = DataConfig(train=(SourceConfig(path=str(shards), split=split),), batch_size=2)
    part = Manifest.read(shards).select(split)
    (kept,) = Stream(config, seed=0).trained_on()
    assert kept == {"digest": part.digest, "shards": [one.sha256[:16] for one in part.shards]}
