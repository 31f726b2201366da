"""Corrupted and OOD images, wrong texts, hospitals and probes: the parts by hand, and every family once as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval import results
from vlp_eval.data.corruptions import CORRUPTIONS
from vlp_eval.tasks.grounding.location_prior import place_of
from vlp_eval.tasks.mismatch import negated, other_side

TWO = ["cardiomegaly", "effusion"]
CLASSES = {"family": "classification", "classes": TWO, "prompts": ["synthetic"]}


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize("shape", [(120, 168), (120, 168, 3)])
def test_a_corruption_is_deterministic_and_grows(name: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    mild, same, severe = (CORRUPTIONS[name](pixels, one) for one in (1, 1, 4))
    assert mild.dtype == np.uint8 and (mild == same).all()
    if name == "scramble":
        assert np.sort(mild.ravel()).tolist() == np.sort(pixels[: mild.shape[0], : mild.shape[1]].ravel()).tolist()
    else:
        assert mild.shape == pixels.shape
        distance = [np.abs(one.astype(float) - pixels).mean() for one in (mild, severe)]
        assert 0 < distance[0] < distance[1]


def test_the_other_side() -> None:
    assert other_side("Right nodule, LEFT effusion, left base.") == "Left nodule, RIGHT effusion, right base."
    assert other_side("Cardiomegaly.") is None


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("There is a nodule.", "There is no nodule."),
        ("There is no effusion. Heart normal.", "There is effusion. Heart normal."),
        ("No pneumothorax.", "pneumothorax."),
        ("Edema is not seen.", "Edema is seen."),
        ("A port is noted.", "A port is not noted."),
        ("Normal chest.", None),
    ],
)
def test_turning_a_finding_around(text: str, turned: str | None) -> None:
    assert negated(text) == turned


def test_places_in_phrases() -> None:
    assert place_of("small nodule in the right upper zone") == ("right", "upper")
    assert place_of("bilateral edema") == ("both", "")
    assert place_of("plate-like atelectasis at the left base") == ("left", "lower")
    assert place_of("effusion") == ("", "")


def test_every_family_runs_on_a_small_model(shards: Path, tiny: Path, tmp_path: Path, run: Run) -> None:
    two = TWO
    tasks = [
        {
            "id": "damage",
            "family": "corruption",
            "classes": two,
            "prompts": ["synthetic"],
            "severities": [5],
            "limit": 60,
        },
        {
            "id": "ood",
            "family": "ood",
            "classes": two,
            "prompts": "synthetic",
            "corruption": "scramble",
            "limit": 40,
        },
        {"id": "elsewhere", "family": "ood", "classes": two, "prompts": "synthetic", "out_where": {"site": "harbour"}},
        {"id": "wrong", "family": "mismatch", "size": 60},
        {"id": "hospitals", "family": "robustness", "biology": two, "k": [3], "primary_k": 3},
        {"id": "probe", "family": "probe", "classes": two, "shots": [5]},
        {"id": "search", "family": "class_retrieval", "classes": two},
        {"id": "ask", "family": "class_retrieval", "classes": two, "queries": "prompts", "prompts": "synthetic-shows"},
        {"id": "saliency", "family": "grounding", "source": "gradcam", "limit": 3},
        {**CLASSES, "id": "descriptors", "scoring": {"rule": "xplainer", "views": "mean"}},
        {**CLASSES, "id": "concepts", "scoring": {"rule": "softmax", "local": 0.5, "local_text": "prompts"}},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "all", "tasks": tasks}))
    words = [
        "--model",
        tiny,
        "--suite",
        tmp_path / "suite.yaml",
        "--data",
        shards,
        "--out",
        tmp_path / "out",
        "--resamples",
        50,
    ]
    assert run("run", *words, "--out", tmp_path / "out") == 0
    found = {one["id"]: one for one in results.read(tmp_path / "out")["tasks"]}
    assert all(one["status"] == "ok" for one in found.values()), [one.get("reason") for one in found.values()]
    assert found["probe"]["metrics"]["auroc_1"]["value"] > 0.5  # features of random weights still carry something
    assert set(found["wrong"]["metrics"]) == {"notices_wrong_report", "notices_wrong_side", "notices_negation"}
    assert all(name in (tmp_path / "out" / "report.html").read_text() for name in found)
