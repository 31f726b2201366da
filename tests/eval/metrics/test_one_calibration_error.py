"""One calibration error under one name, and subgroups that a multi-class task answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run, score
from vlp_eval import results

pytestmark = pytest.mark.usefixtures("planted")
COMMON = {"family": "classification", "classes": ["consolidation", "nodule"], "prompts": ["synthetic"]}
TASKS: list[dict[str, Any]] = [
    COMMON | {"id": "labels", "calibrate": "val"},
    COMMON
    | {"id": "kinds", "kind": "multiclass", "scoring": {"rule": "softmax"}, "subgroups": ["site"], "min_group": 5},
]


def test_tables_figures_and_rows_say_the_same(run: Run, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": TASKS}))
    out = tmp_path / "out"
    assert score(run, shards, out, "tests.eval.factories:noisy", suite=str(tmp_path / "suite.yaml")) == 0
    labels, kinds = results.read(out)["tasks"]
    for task, name in ((labels, "ece_macro"), (kinds, "ece")):
        figure = json.loads((out / task["figures"]).read_text())["calibration"]
        assert figure[0]["ece"] == task["metrics"][name]["value"]
    assert "ece" not in kinds["per_class"]["nodule"] and "ece_one_against_rest" in kinds["per_class"]["nodule"]
    own = [labels["per_class"][name]["ece"]["value"] for name in COMMON["classes"]]
    assert labels["metrics"]["ece_macro"]["value"] == pytest.approx(np.mean(own))
    rows = results.read_samples(out, kinds)
    groups = kinds["subgroups"]["site"]["groups"]
    assert len(groups) > 1 and kinds["subgroups"]["site"]["metric"] == "accuracy"
    for site, one in groups.items():
        inside = [row for row in rows if row["groups"]["site"] == site]
        right = [row["labels"][max(row["scores"], key=row["scores"].__getitem__)] for row in inside]
        assert one["n"] == len(inside)
        if one["accuracy"]["value"] is not None:
            assert one["accuracy"]["value"] == pytest.approx(np.mean(right))
            assert one["accuracy"]["ci"][0] <= np.mean(right) <= one["accuracy"]["ci"][1]
    assert any(one["accuracy"]["value"] is not None for one in groups.values())


def test_one_group_has_no_gap(run: Run, shards: Path, tmp_path: Path) -> None:
    task = TASKS[1] | {"data": {"where": {"site": "northgate"}}}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    assert score(run, shards, tmp_path / "out", "tests.eval.factories:noisy", suite=str(tmp_path / "suite.yaml")) == 0
    found = results.read(tmp_path / "out")["tasks"][0]["subgroups"]["site"]
    assert found["groups"]["northgate"]["accuracy"]["value"] is not None and "gap" not in found
