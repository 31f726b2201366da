"""Studies of several views, descriptors and "No Finding", against the papers' formulas written out in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval import results
from vlp_eval.metrics.arithmetic import unit

CLASSES = ["a", "b", "clear"]
PROMPTS = """
version: "1"
about: x
classes:
  a: {pos: [a one, a two, a three], neg: [no a one, no a two, no a three]}
  b: {pos: [b one, b two], neg: [no b one, no b two]}
  clear: {pos: [clear], neg: [not clear]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write 40 images of 24 studies, labels by study, and three sets of prompts."""
    import cv2

    rng = np.random.default_rng(0)
    lines = ["file,study,a,b,clear"]
    labels = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)] * 6
    for number in range(40):
        study = number % 24
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, (64, 64), dtype=np.uint8))
        lines.append(f"{number}.png,s{study},{','.join(map(str, labels[study]))}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    for number in range(3):
        (tmp_path / f"set{number}.yaml").write_text(PROMPTS.replace("one", f"first{number}"))
    return tmp_path


def scored(run: Run, folder: Path, tiny: Path, out: str, **settings: Any) -> dict[str, Any]:
    columns = {"image": "file", "study": "study", "labels": {one: one for one in CLASSES}}
    task = {
        "id": "t",
        "family": "classification",
        "classes": CLASSES,
        "data": {"table": "table.csv", "columns": columns},
    }
    task |= {"prompts": ["set0.yaml", "set1.yaml", "set2.yaml"], "no_finding": "clear", **settings}
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    words = ["--model", tiny, "--suite", folder / "suite.yaml", "--data", folder, "--out", folder / out]
    assert run("run", *words, "--resamples", 40, "--no-html") == 0
    entry: dict[str, Any] = results.read(folder / out)["tasks"][0]
    entry["rows"] = [json.loads(one) for one in (folder / out / "samples" / "t.jsonl").read_text().splitlines()]
    return entry


def embedded(folder: Path, tiny: Path, name: str) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Return unit images [40, D] and unit texts of each class, straight from the model."""
    import yaml

    from vlp_eval.models import load as embedder

    model = embedder.load(str(tiny), "cpu")
    inputs = np.stack([model.prepare((folder / f"{one}.png").read_bytes())[0] for one in range(40)])
    texts = yaml.safe_load((folder / name).read_text())["classes"]
    sides = {
        one: tuple(unit(model.encode("text", texts[one][side])["text"]) for side in ("pos", "neg")) for one in CLASSES
    }
    return unit(model.encode("image", inputs)["image"]), sides


def test_xplainer_averages_views_before_the_geometric_mean(run: Run, folder: Path, tiny: Path) -> None:
    """p_d = softmax([s+, s-] / 0.5); mean over the views; P = exp(mean ln p), N of 1 - p; no finding = 1 - max P."""
    entry = scored(run, folder, tiny, "out", scoring={"rule": "xplainer", "temperature": 0.5, "views": "mean"})
    images, texts = embedded(folder, tiny, "set0.yaml")
    for study in range(24):
        views = [number for number in range(40) if number % 24 == study]
        expected = {}
        for name in ("a", "b"):
            positive, negative = texts[name]
            p = np.mean(
                [1 / (1 + np.exp(-(images[view] @ positive.T - images[view] @ negative.T) / 0.5)) for view in views],
                axis=0,
            )
            expected[name] = np.exp(np.log(p).mean())
        expected["clear"] = 1 - max(expected.values())
        row = entry["rows"][study]
        assert row["id"] == str(study)
        assert row["scores"] == pytest.approx(expected, abs=1e-7)
    assert entry["data"]["n"] == 24
    assert (
        entry["metrics"]["auroc_macro"]["n_classes"] == 2 and entry["per_class"]["clear"]["auroc"]["value"] is not None
    )
    assert "clear" not in entry["prompts"][0]["text"]  # it is derived, not asked for
    assert set(entry["scoring"]) == {"rule", "temperature", "views", "ties"}  # there is nothing to pool


@pytest.mark.parametrize("rule", ["pair", "xplainer", "softmax"])
def test_every_wording_is_scored_on_studies_too(run: Run, folder: Path, tiny: Path, rule: str) -> None:
    more = {"classes": CLASSES[:2], "no_finding": None} if rule == "softmax" else {}
    entry = scored(run, folder, tiny, rule, scoring={"rule": rule, "views": "mean"}, **more)
    spread = entry["metrics"]["auroc_macro_over_prompt_sets"]
    assert set(spread["sets"]) == {"set0", "set1", "set2"} and spread["spread"] >= 0
    assert spread["value"] == pytest.approx(np.mean(list(spread["sets"].values())), abs=1e-9)


def test_pairs_average_margins_over_views(run: Run, folder: Path, tiny: Path) -> None:
    entry = scored(run, folder, tiny, "out", scoring={"rule": "pair", "views": "mean", "pooling": "mean-of-scores"})
    images, texts = embedded(folder, tiny, "set0.yaml")
    for name in CLASSES:
        margin = (images @ texts[name][0].T).mean(1) - (images @ texts[name][1].T).mean(1)
        for study in range(24):
            expected = margin[[number for number in range(40) if number % 24 == study]].mean()
            assert entry["rows"][study]["scores"][name] == pytest.approx(expected, abs=1e-7)


def test_decisions_of_each_class_are_scikit_learns(run: Run, folder: Path, tiny: Path) -> None:
    from sklearn import metrics

    entry = scored(run, folder, tiny, "out", scoring={"rule": "pair", "temperature": 1.0})
    truth = {name: [row["labels"][name] for row in entry["rows"]] for name in CLASSES}
    decided = {name: [int(row["scores"][name] > 0) for row in entry["rows"]] for name in CLASSES}
    formulas = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": lambda y, p: metrics.f1_score(y, p, zero_division=0),
        "kappa": metrics.cohen_kappa_score,
        "mcc": metrics.matthews_corrcoef,
    }
    for key, formula in formulas.items():
        known = []
        for name in CLASSES:
            found = entry["per_class"][name][key]["value"]
            if found is not None:
                assert found == pytest.approx(formula(truth[name], decided[name]), abs=1e-9), (name, key)
                known.append(found) if name != "clear" else None
            else:
                assert key == "mcc" and len(set(decided[name])) == 1
        if known:
            assert entry["metrics"][f"{key}_macro"]["value"] == pytest.approx(np.mean(known), abs=1e-9)
