"""The grounding task on tables of one's own: means over phrases and over findings, controls, and what leaves of a phrase."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.eval.conftest import Run, score
from vlp_eval import intervals, results

Row = tuple[str, int, Sequence[dict[str, Any]]]
"""A patient, the side of the patient's image in pixels, and its boxes."""


def own_set(folder: Path, rows: Sequence[Row]) -> Path:
    """Write square pictures with boxes as a table, and a suite that grounds their phrases; return the suite."""
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "who", "boxes"])
        for number, (patient, side, boxes) in enumerate(rows):
            cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (side, side), dtype=np.uint8))
            writer.writerow([f"{number}.png", patient, json.dumps(boxes)])
    columns = {"image": "image", "patient": "who", "boxes": "boxes"}
    task = {"id": "own", "family": "grounding", "data": {"table": "table.csv", "columns": columns}}
    path = folder / "suite.yaml"
    path.write_text(json.dumps({"version": "1", "about": "a test", "tasks": [task]}))
    return path


def scored(run: Run, folder: Path, tiny: Path, rows: Sequence[Row], *more: object) -> tuple[dict[str, Any], Any]:
    """Return the entry of the run in the results, and its rows."""
    suite, out = own_set(folder, rows), folder / "out"
    assert score(run, folder, out, tiny, *more, suite=str(suite)) == 0
    lines = (out / "samples" / "own.jsonl").read_text().splitlines()
    return results.read(out)["tasks"][0], [json.loads(one) for one in lines]


def test_a_control_that_one_phrase_lacks_is_left_out_of_the_gain(run: Run, tiny: Path, tmp_path: Path) -> None:
    """A box of one pixel, moved onto an image an eighth as large, holds no pixel's centre."""
    rows: list[Row] = [
        ("a", 128, [{"phrase": "nodule", "xyxy": [10, 10, 11.2, 11.2], "label": "nodule"}]),
        ("b", 16, [{"phrase": "mass", "xyxy": [2, 2, 12, 12], "label": "mass"}]),
    ]
    entry, found = scored(run, tmp_path, tiny, rows)
    assert [one["pointing_shuffled"] is None for one in found] == [True, False]
    gain = entry["metrics"]["pointing_minus_shuffled"]
    assert gain["value"] == found[1]["pointing"] - found[1]["pointing_shuffled"]
    assert (gain["n"], gain["undefined"], gain["chance"]) == (1, 1, 0)


SENTENCE = "Rounded opacity beside the heart"


@pytest.mark.parametrize("shown", [False, True])
def test_a_phrase_without_a_label_leaves_only_when_text_may(run: Run, tiny: Path, tmp_path: Path, shown: bool) -> None:
    """The sentences of a report are no labels: neither results, samples, figures nor the page hold them."""
    boxes = [{"phrase": SENTENCE, "xyxy": [8, 8, 40, 40]}, {"phrase": "mass", "xyxy": [4, 4, 30, 20], "label": "Mass"}]
    suite, out = own_set(tmp_path, [(one, 64, boxes) for one in "abc"]), tmp_path / "out"
    words = ["--model", tiny, "--suite", suite, "--data", tmp_path, "--out", out, "--resamples", 20]
    assert run("run", *words, *(["--show-text"] if shown else [])) == 0
    holding = {one.name for one in out.rglob("*") if one.is_file() and SENTENCE in one.read_text()}
    assert holding == ({"own.jsonl", "own.json", "report.html"} if shown else set())
    assert set(results.read(out)["tasks"][0]["per_class"]) == {"Mass", "no label"}


def test_the_mean_over_findings_weighs_each_alike(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the samples file: means over phrases, then over findings, patients drawn with all that is theirs."""
    for name in ("FEW_PATIENTS", "FEW_ON_A_SIDE", "FEW_EVENTS", "TOO_FEW"):  # percentiles, however few they are of
        monkeypatch.setattr(intervals, name, 0)
    place = np.random.default_rng(1).integers(4, 30, (12, 2))
    names = ["common"] * 8 + ["rare"] * 3 + [None]
    rows: list[Row] = []
    for number, ((x, y), name) in enumerate(zip(place.tolist(), names, strict=True)):
        box = {"phrase": f"a {name}", "xyxy": [x, y, x + 24, y + 20]} | ({"label": name} if name else {})
        rows.append((f"p{number % 7}", 64, [box]))
    entry, found = scored(run, tmp_path, tiny, rows)
    draws = np.random.default_rng(0).integers(0, 7, (200, 7))
    for score_name in ("pointing", "cnr", "cnr_absolute", "miou"):
        values = np.array([one[score_name] for one in found])
        sides = [values[:8], values[8:11]]
        one = entry["metrics"][f"{score_name}_macro"]
        assert one["value"] == pytest.approx((sides[0].mean() + sides[1].mean()) / 2)
        assert (one["n_classes"], one["undefined"]) == (2, [])
        assert [entry["per_class"][name][score_name]["value"] for name in ("common", "rare")] == pytest.approx(
            [side.mean() for side in sides]
        )
        means = []
        for drawn in draws:
            chosen = [number for patient in drawn for number in range(11) if number % 7 == patient]
            parts = [[values[n] for n in chosen if n < 8], [values[n] for n in chosen if n >= 8]]
            if all(parts):
                means.append(np.mean([np.mean(part) for part in parts]))
        assert one["n_boot_undefined"] == 200 - len(means) > 0
        assert one["ci"] == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert entry["metrics"]["pointing_macro"]["chance"] == pytest.approx(24 * 20 / 64**2)
