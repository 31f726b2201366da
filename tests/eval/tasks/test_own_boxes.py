"""Boxes of one's own with labels, from a table through `vlp-prep build pairs` to the scores of each finding."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval import results
from vlp_prep.cli import main as vlp_prep


def test_labels_of_own_boxes_reach_terminal_page_and_results(
    run: Run, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lines = []
    (tmp_path / "raw").mkdir()
    for number in range(6):
        cv2.imwrite(str(tmp_path / "raw" / f"{number}.png"), rng.integers(0, 255, (64, 64), dtype=np.uint8))
        boxes = [{"phrase": "mass in the left lung", "label": "Mass", "box": [4, 6, 30, 40]}]
        boxes += [{"phrase": "round opacity", "label": "Nodule", "xywh": [34, 20, 16, 18]}] if number % 2 else []
        line = {"image": f"{number}.png", "report": f"Report {number}.", "patient": f"P{number}", "boxes": boxes}
        lines.append(json.dumps(line))
    (tmp_path / "raw" / "own.jsonl").write_text("\n".join(lines))
    words = ["--raw", tmp_path / "raw", "--table", "own.jsonl", "--out", tmp_path / "own", "--workers", 0]
    assert vlp_prep(["build", "pairs", *map(str, words), "--split", "none"]) == 0
    task = {"id": "boxes", "family": "grounding", "data": {"folder": "own"}}
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"version": "1", "about": "own boxes", "tasks": [task]}))
    capsys.readouterr()
    words = ["--model", tiny, "--suite", suite, "--data", tmp_path, "--out", tmp_path / "out", "--resamples", 20]
    assert run("run", *words) == 0
    said, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    (entry,) = results.read(tmp_path / "out")["tasks"]
    assert {name: one["n"] for name, one in entry["per_class"].items()} == {"Mass": 6, "Nodule": 3}
    assert entry["metrics"]["pointing_macro"]["n_classes"] == 2
    for finding in ("Mass", "Nodule"):
        assert f"pointing of {finding}" in said and f"{entry['per_class'][finding]['pointing']['value']:.3f}" in said
        assert finding in page
    assert "left lung" not in said + page  # a phrase may be a sentence of a report
