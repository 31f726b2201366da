"""Grounding and segmentation of volumes: a model that knows the answers, its controls, and what stands in the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from vlp_eval import results
from vlp_eval.tasks.controls import box_map, centre_map

MASKS = ["effusion", "consolidation", "mass"]


def score(run: Any, scans: Path, folder: Path, model: str, *more: object, **settings: Any) -> dict[str, Any]:
    tasks = [
        {"id": "ground", "family": "grounding", "prior_split": "train"},
        {
            "id": "segment",
            "family": "segmentation",
            "masks": {name: name for name in MASKS},
            "tolerance": 12.0,
            **settings,
        },
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"version": "1", "about": "for a test", "tasks": tasks}))
    words = [
        "--suite",
        folder / "suite.yaml",
        "--data",
        scans,
        "--out",
        folder / "out",
        "--resamples",
        50,
        "--limit",
        14,
    ]
    run("run", "--model", f"tests.eval.planted_volumes:{model}", *words, *more)
    return {task["id"]: task for task in results.read(folder / "out")["tasks"]}


@pytest.fixture
def known(scans: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLP_TEST_SHARDS", str(scans))
    return scans


def test_a_model_that_knows_points_into_its_boxes_and_its_controls_do_not(
    known: Path, tmp_path: Path, run: Any
) -> None:
    tasks = score(run, known, tmp_path, "perfect")
    found = {name: entry["value"] for name, entry in tasks["ground"]["metrics"].items()}
    assert found["pointing"] > 0.9 and found["pixel_auroc"] > 0.8 and found["cnr"] > 1
    assert found["pointing_shuffled"] < 0.5 and found["pointing_wrong_phrase"] < 0.5
    assert found["distance_mm"] < 6 < found["distance_mm_shuffled"]
    metric = tasks["ground"]["metrics"]["distance_mm"]
    assert metric["higher_is_better"] is False and "primary" not in metric
    assert tasks["ground"]["metrics"]["distance_mm_centre"]["control_of"] == "distance_mm"
    assert found["depth_error_mm"] < 20 < min(found["depth_error_mm_centre"], found["depth_error_mm_shuffled"])
    assert tasks["ground"]["metrics"]["depth_error_mm"]["chance"] > 30  # a slice drawn at random of 288 mm
    assert tasks["ground"]["scoring"]["outside"] == "all that the model sees"
    rows = [row for row in results.read_samples(tmp_path / "out", tasks["ground"]) if row["distance_mm"] is not None]
    assert all((row["distance_mm"] == 0) == bool(row["pointing"]) for row in rows) and len(rows) > 9


def test_a_model_that_is_always_wrong_is_seen_to_be(known: Path, tmp_path: Path, run: Any) -> None:
    tasks = score(run, known, tmp_path, "inverted", "--no-html", "--write-maps")
    found = {name: entry["value"] for name, entry in tasks["ground"]["metrics"].items()}
    rows = results.read_samples(tmp_path / "out", tasks["ground"])
    maps = [nibabel.load(tmp_path / "out" / "maps" / "ground" / row["map"]) for row in rows]
    assert len({row["map"] for row in rows}) == len(rows) > 9
    assert all(image.shape == (24, 20, 24) and np.allclose(np.diag(image.affine), (12, 12, 12, 1)) for image in maps)
    assert found["pointing"] < 0.1 and found["cnr"] < -1 and found["pixel_auroc"] < 0.3


def test_segmentation_of_volumes_is_in_millimetres(known: Path, tmp_path: Path, run: Any) -> None:
    entry = score(run, known, tmp_path, "perfect", "--no-html")["segment"]
    assert entry["status"] == "ok" and entry["scoring"]["surface"].startswith("in millimetres")
    assert all(0 <= entry["metrics"][name]["value"] <= 1 for name in ("dice", "iou", "nsd", "pixel_auroc"))
    assert entry["metrics"]["hd95"]["value"] > 12  # voxels are of 12 mm
    assert {"dice_shuffled", "dice_prior", "dice_centre", "dice_wrong_phrase"} <= entry["metrics"].keys()


def test_what_is_of_two_dimensions_is_refused(known: Path, tmp_path: Path, run: Any) -> None:
    entry = score(run, known, tmp_path, "perfect", "--no-html", rule="crf")["segment"]
    assert entry["status"] == "failed" and "take rule kmeans or threshold" in entry["reason"]


def test_controls_of_a_volume_are_boxes_in_three_axes() -> None:
    centre = centre_map((8, 12, 16))
    inside = np.zeros((8, 12, 16), bool)
    inside[2:6, 3:9, 4:12] = True
    assert np.array_equal(centre > 0, inside)
    corner = box_map((0.0, 0.0, 0.5, 0.5, 0.25, 1.0), (8, 8, 8))
    assert corner[5, 0, 1] > 0 and not corner[:4].any() and not corner[:, 2:].any() and not corner[:, :, 4:].any()
    assert np.unravel_index(int(corner.argmax()), corner.shape)[0] in (5, 6)
