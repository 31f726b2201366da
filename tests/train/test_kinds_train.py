"""Every kind of objective, from a recipe line to a checkpoint: the command itself on real shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import run
from vlp.objectives import objectives
from vlp.train.cli import main

FINDINGS = ["consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly", "edema", "atelectasis", "device"]
NAMES = {one: one for one in FINDINGS}
PLACES = {"left": ["left", None], "right": ["right", None], "left lower": ["left", "lower"], "anywhere": [None, None]}
MAE = {"kind": "mae", "patch": 8, "channels": 1, "width": 16, "depth": 1, "heads": 2}
MEDSLIP = {"kind": "medslip", "findings": FINDINGS, "places": PLACES, "width": 16, "layers": 1, "heads": 2}
LINES: dict[str, list[dict[str, Any]]] = {
    "mgca": [{"kind": "mgca", "prototypes": 8}],
    "medclip, two views of labelled sentences": [{"kind": "medclip", "views": 2, "text_labels": "mentions"}],
    "label_aware by category": [{"kind": "label_aware", "by": "category"}],
    "concept on phrases": [{"kind": "concept", "of": "phrases", "align": "clip", "loss": "softmax", "pool": "lse"}],
    "assertion": [{"kind": "convirt"}, {"kind": "assertion", "findings": NAMES}],
    "multi_text": [{"kind": "convirt"}, {"kind": "multi_text", "texts": {one: [one, f"{one} is seen"] for one in FINDINGS}}],
    "medslip": [{"kind": "clip"}, MEDSLIP],
    "anatomy": [{"kind": "anatomy", "organs": {"lung": {"codes": FINDINGS[:4]}, "heart": {}}, "masks": False}],
    "mae": [{"kind": "clip"}, {**MAE, "weight": [[0.0, 0.0], [0.5, 0.5]]}],
    "your own, by its place": [{"kind": "tests.train.own_objective:Margin", "margin": 0.1}],
}  # fmt: skip
"""Lines of a recipe; a kind that is not named here trains with its defaults."""
OF_VOLUMES = {"depth"}
"""Kinds that find nothing in images: `test_volumes` trains them."""
KINDS = sorted({*(kind for kind in objectives if kind != "example_margin"), *LINES} - OF_VOLUMES)


def lines_of(kind: str) -> list[dict[str, Any]]:
    return LINES.get(kind, [{"kind": kind}])


def test_no_kind_is_left_out() -> None:
    assert {str(line["kind"]) for kind in KINDS for line in lines_of(kind)} >= set(objectives) - OF_VOLUMES - {
        "example_margin"
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_line_trains(kind: str, recipe: Path, tmp_path: Path) -> None:
    settings = [f"objectives={json.dumps(lines_of(kind))}", f"data.labels={json.dumps(FINDINGS)}", "data.workers=0"]
    done = run(recipe, "name=run", "train.samples=32", "train.validate_every=4", *settings)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "runs" / "run" / "log.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "train"]
    assert len(steps) == 4 and all(0 < abs(step["loss"]) < 1e3 and step["grad_norm"] > 0 for step in steps)
    for line in lines_of(kind):
        name = str(line["kind"]).rpartition(":")[2]
        assert all(step[name] != 0 for step in steps), f"{name} found nothing to learn from"
    assert (tmp_path / "runs" / "run" / "last" / "model.safetensors").is_file()
    checked = [event for event in events if event["event"] == "validate"]
    assert checked and checked[-1]["loss"] == checked[-1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mae", "medclip, two views of labelled sentences", "medslip"])
def test_a_recipe_line_trains_in_chunks(kind: str, recipe: Path, tmp_path: Path) -> None:
    settings = [f"objectives={json.dumps(lines_of(kind))}", f"data.labels={json.dumps(FINDINGS)}", "data.workers=0"]
    chunks = ["train.accumulate=2", "train.cached_embeddings=true", "model.image.norm=group", "model.image.groups=4"]
    done = run(recipe, "name=run", "train.samples=16", *settings, *chunks)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "labels", "expected"),
    [
        ({"kind": "label_aware"}, [], "needs labels"),
        ({"kind": "assertion", "findings": {"fracture": "a fracture"}}, [], "codes of concepts there: "),
        ({"kind": "medclip", "views": 2}, FINDINGS, "data.text.subset"),
        ({"kind": "gloria", "positives": "label"}, ["Edema"], "labels there: atelectasis"),
        ({"kind": "clip", "positives": "label"}, [], "needs labels"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_a_missing_need_is_one_line_before_the_first_step(
    line: dict[str, Any],
    labels: list[str],
    expected: str,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [f"objectives={json.dumps([line])}", f"data.labels={json.dumps(labels)}", "data.text.subset=0"]
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(main([str(recipe), *settings, "name=none"]))
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert expected in said
    assert not list((tmp_path / "runs").glob("none/checkpoints/*"))
