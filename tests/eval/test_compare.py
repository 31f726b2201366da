"""What `compare` says of two runs is what their results say: the same classes, the same ties, every metric of the rows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.eval.conftest import Run
from vlp_eval import results

pytestmark = pytest.mark.usefixtures("planted")
PAIRS = """
version: "1"
about: findings, one of them rare, and their absence
classes:
  nodule: {pos: [a nodule], neg: [no nodule]}
  rare: {pos: [a rarity], neg: [no rarity]}
  clear: {pos: [a clear film], neg: [no clear film]}
"""
TWINS = """
version: "1"
about: two classes that no model tells apart, so that each image is a tie
classes: {alpha: {pos: [a film]}, omega: {pos: [a film]}}
"""
TASKS: list[dict[str, Any]] = [
    {"id": "labels", "family": "classification", "classes": ["nodule", "rare", "clear"], "no_finding": "clear"},
    {"id": "kinds", "family": "classification", "kind": "multiclass", "classes": ["alpha", "omega"]},
    {"id": "pairs", "family": "retrieval", "k": [1, 3], "primary_k": 1},
    {"id": "wrong", "family": "mismatch", "edits": ["side"]},
    {"id": "centres", "family": "robustness", "biology": ["alpha", "omega"], "k": [10]},
]


def table(folder: Path, shards: Path) -> None:
    """Write 24 images, two of them the same, the first with a report that names no side; one is positive for `rare`."""
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet

    source = ShardSet(Manifest.read(shards).select("test"))
    samples = [source.sample(index) for index in range(len(source))]
    samples.sort(key=lambda one: bool(re.search(r"\b(left|right)\b", str(one.report))))
    rows = []
    for index, sample in enumerate(samples[:1] + samples[-23:]):
        image = samples[0].image if index == 1 else sample.image
        assert isinstance(image, bytes) and sample.report is not None
        (folder / f"{index}.png").write_bytes(image)
        text = sample.report.text
        nodule = int(index % 3 == 0)
        kinds = {
            "nodule": nodule,
            "rare": int(index == 5),
            "clear": 1 - nodule,
            "alpha": index % 2,
            "omega": 1 - index % 2,
        }
        rows.append({"file": f"{index}.png", "who": f"p{index}", "text": text, "site": "AB"[index // 4 % 2], **kinds})
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_compare_says_what_the_results_say(
    run: Run, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path, shards)
    (tmp_path / "pairs.yaml").write_text(PAIRS)
    (tmp_path / "twins.yaml").write_text(TWINS)
    labels = {one: one for one in ("nodule", "rare", "clear", "alpha", "omega")}
    columns = {"image": "file", "patient": "who", "report": "text", "groups": ["site"], "labels": labels}
    tasks = [{**one, "data": {"table": "table.csv", "columns": columns}} for one in TASKS]
    tasks[0] |= {"prompts": ["pairs.yaml"]}
    tasks[1] |= {"prompts": ["twins.yaml"], "scoring": {"rule": "softmax"}}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    trees = []
    for name in ("perfect", "random"):
        words = ["--model", f"tests.eval.factories:{name}", "--suite", tmp_path / "suite.yaml", "--data", tmp_path]
        assert run("run", *words, "--out", tmp_path / name, "--resamples", 200, "--no-html") == 0
        trees.append({one["id"]: one for one in results.read(tmp_path / name)["tasks"]})
    capsys.readouterr()
    assert run("compare", tmp_path / "perfect", tmp_path / "random", "--json", tmp_path / "table.json") == 0
    assert "centres: not compared, family 'robustness' declares no comparable metric" in capsys.readouterr().out
    found = {(one["task"], one["metric"]): one for one in json.loads((tmp_path / "table.json").read_text())}
    for (task, name), one in found.items():
        for tree, side in zip(trees, ("first", "second"), strict=True):
            metrics = tree[task]["metrics"]
            own = metrics[name] if name in metrics else tree[task]["per_class"][name.removeprefix("auroc ")]["auroc"]
            assert one[side] == pytest.approx(own["value"], abs=1e-9), (task, name)
    expected = {("labels", f"auroc{one}") for one in ("_macro", " nodule", " rare", " clear")}
    expected |= {("pairs", f"{short}_{one}") for short in ("i2t", "t2i") for one in ("r@1", "r@3", "mrr")}
    assert found.keys() == expected | {("kinds", "accuracy"), ("wrong", "notices_wrong_side")}
    assert trees[0]["labels"]["metrics"]["auroc_macro"]["classes"] == ["nodule", "rare"]
    rows = results.read_samples(tmp_path / "perfect", trees[0]["pairs"])
    assert any(0 < row["t2i_r@1"] < 1 for row in rows)  # two images are one: half a hit
