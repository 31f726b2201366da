"""Controls of segmentation, masks decoded once, and saliency of a tower that was frozen."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run
from vlp_eval import results
from vlp_eval.data.dataset import Data
from vlp_eval.metrics.segmentation import dice
from vlp_eval.tasks.controls import CONTROLS, centre_map
from vlp_eval.tasks.grounding.location_prior import mask_of

NAMES = {"left": "effusion on the left", "right": "effusion on the right"}


@pytest.fixture(scope="module")
def masks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 30 images, of patients with two each, that have a mask at the left or at the right; one has both."""
    import cv2

    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet
    from vlp_prep.pipeline.shard_writer import ShardWriter

    folder, source = tmp_path_factory.mktemp("masks") / "masks", ShardSet(Manifest.read(shards).select("test"))
    rng = np.random.default_rng(0)
    with ShardWriter(folder, source="synthetic", version="1") as writer:
        for index in range(30):
            sample, made = source.sample(index), {}
            for at, name in enumerate(NAMES):
                if index % 2 == at or index == 0:
                    mask = np.zeros((128, 128), np.uint8)
                    top, left = (int(one) for one in rng.integers(0, 20, 2))
                    mask[30 + top : 60 + top, 70 * at + left : 70 * at + left + 30] = 255
                    made[name] = cv2.imencode(".png", mask)[1].tobytes()
            writer.write(replace(sample, masks=made, patient=f"p{index // 2}", split="test"))
    return folder


def scored(run: Run, model: object, folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    task = {"id": "t", "family": "segmentation", "masks": NAMES, **settings}
    suite = out.parent / f"{out.name}.yaml"
    suite.write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    words = ["--model", model, "--suite", suite, "--data", folder, "--out", out, "--resamples", 30]
    assert run("run", *words) == 0
    (entry,) = results.read(out)["tasks"]
    return entry | {"rows": results.read_samples(out, entry)}


def decoded(folder: Path) -> list[tuple[str, str, str, Any]]:
    """Return key, patient, mask name and mask of all that are there."""
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet
    from vlp.modalities.image.decode import decode

    source = ShardSet(Manifest.read(folder))
    samples = [source.sample(index) for index in range(len(source))]
    return [
        (one.key, str(one.patient), name, decode(content, 1) > 0)
        for one in samples
        for name, content in one.masks.items()
    ]


def test_a_mask_is_decoded_once(
    run: Run, tiny: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def counted(data: Data, index: int, name: str) -> Any:
        asked.append((index, name))
        return mask_of(data, index, name)

    monkeypatch.setattr("vlp_eval.tasks.segmentation.mask_of", counted)
    monkeypatch.setattr("vlp_eval.tasks.grounding.location_prior.mask_of", counted)
    scored(run, tiny, masks, tmp_path / "out", rule="threshold", limit=4)
    assert len(asked) == len(set(asked)) == 30 * len(NAMES)


def test_every_score_of_a_segmentation_stands_beside_its_controls(
    run: Run, tiny: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = scored(run, tiny, masks, tmp_path / "out", rule="threshold")
    said = capsys.readouterr().out
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    for name in ("dice", "iou", "nsd", "pixel_auroc"):
        for control, words in CONTROLS.items():
            one = entry["metrics"][f"{name}_{control}"]
            assert (one["control_of"], one["control"]) == (name, words) and one["value"] is not None
    line = next(text for text in said.splitlines() if text.startswith("t: dice"))
    assert all(f"{control} 0." in line for control in CONTROLS)  # beside the headline
    assert all(words in page for words in (*CONTROLS.values(), "Dice by finding", "Scores and their controls"))
    assert set(entry["per_class"]) == set(NAMES) and entry["per_class"]["right"]["n"] == 16
    assert "dice of left" in said
    truth = decoded(masks)
    rows = {(row["id"], row["mask"]): row for row in entry["rows"]}
    for key, patient, name, mask in truth[:6]:
        centre = centre_map(mask.shape) > 0.5
        assert rows[key, name]["dice_centre"] == pytest.approx(dice(centre, mask))
        # the mean mask of the other patients: where half of the way to its maximum is passed
        others = np.mean([other for _, whose, what, other in truth if what == name and whose != patient], axis=0)
        answer = (others - others.min()) / (others.max() - others.min()) > 0.5
        assert rows[key, name]["dice_prior"] == pytest.approx(dice(answer, mask), abs=0.06)  # kept at 64 x 64
    by_name = [np.mean([row["dice"] for row in entry["rows"] if row["mask"] == name]) for name in sorted(NAMES)]
    assert [entry["per_class"][name]["dice"]["value"] for name in sorted(NAMES)] == pytest.approx(by_name)


def test_a_task_of_one_mask_has_a_wrong_phrase_too(run: Run, tiny: Path, masks: Path, tmp_path: Path) -> None:
    entry = scored(run, tiny, masks, tmp_path / "out", masks={"left": "effusion on the left"}, limit=6)
    assert entry["metrics"]["dice_wrong_phrase"]["value"] is not None
    assert entry["scoring"]["unrelated"] == "a photo of a cat"


@pytest.mark.parametrize("source", ["gradcam", "gscorecam", "m2ib"])
def test_saliency_of_a_frozen_tower_is_that_of_the_same_tower_in_training(
    source: str, run: Run, tiny: Path, masks: Path, tmp_path: Path
) -> None:
    frozen = tmp_path / "frozen"
    shutil.copytree(tiny, frozen)
    tree = json.loads((frozen / "config.json").read_text())
    tree["model"]["image"]["frozen"] = True
    (frozen / "config.json").write_text(json.dumps(tree))
    one, other = (
        scored(run, model, masks, tmp_path / name, source=source, limit=3, prior_split=None)
        for model, name in ((frozen, "a"), (tiny, "b"))
    )
    assert one["metrics"]["dice"]["value"] is not None
    assert one["metrics"] == other["metrics"]
