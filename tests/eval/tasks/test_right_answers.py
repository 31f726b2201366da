"""What counts as found in retrieval: equal texts, all of a patient, what a column holds; against loops over the pairs."""

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
from vlp_eval import results
from vlp_eval.metrics.arithmetic import unit

TEXTS = ["No nodule.", "A nodule.", "Large heart.", "Small effusion.", "Clear lungs.", "a NODULE", "Edema.", "A line."]
SAID = [0, 1, 2, 0, 3, 5, 4, 4, 6, 0, 7, 3]
WHO = ["a", "a", "a", "b", "b", "c", "c", "d", "e", "f", "f", ""]
SITE = ["x", "", "y", "", "y", "x", "", "", "z", "", "x", "y"]


def own_set(folder: Path, **settings: Any) -> Path:
    """Write twelve pictures with texts of patients at sites, some of each said of several, and a suite that searches them."""
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "who", "text", "site"])
        for number, (said, who, site) in enumerate(zip(SAID, WHO, SITE, strict=True)):
            cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (32, 32), dtype=np.uint8))
            writer.writerow([f"{number}.png", who, TEXTS[said], site])
    columns = {"image": "image", "patient": "who", "report": "text", "groups": ["site"]}
    task = {"id": "own", "family": "retrieval", "data": {"table": "table.csv", "columns": columns}, "k": [1, 3]}
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task | settings]}))
    return folder / "suite.yaml"


def same_words(one: int, other: int) -> bool:
    return one == other or {one, other} == {1, 5}  # but for capitals and the full stop


def oracle(folder: Path, tiny: Path, group: Sequence[str]) -> dict[str, list[tuple[int, int, float]]]:
    """Return for each query its rank, its number of right answers, and its recall of three, pair by pair."""
    from vlp_eval.models import load as embedder

    model = embedder.load(str(tiny), "cpu")
    images = unit(
        model.encode("image", np.stack([model.prepare((folder / f"{n}.png").read_bytes())[0] for n in range(12)]))[
            "image"
        ]
    )
    texts = unit(model.encode("text", [TEXTS[one] for one in SAID])["text"])
    gallery = [n for n in range(12) if not any(same_words(SAID[n], SAID[earlier]) for earlier in range(n))]

    def right(image: int, text: int) -> bool:
        return any(
            same_words(SAID[n], SAID[text]) and (n == image or (group[n] == group[image] != "")) for n in range(12)
        )

    def placed(scores: Sequence[float], found: Sequence[bool]) -> tuple[int, int, float]:
        order = np.argsort(-np.array(scores), kind="stable")
        hits = np.array(found)[order]
        return int(hits.argmax()) + 1, int(hits.sum()), float(hits[:3].sum() / hits.sum())

    return {
        "i2t": [
            placed([float(images[n] @ texts[one]) for one in gallery], [right(n, one) for one in gallery])
            for n in range(12)
        ],
        "t2i": [
            placed([float(images[one] @ texts[n]) for one in range(12)], [right(one, n) for one in range(12)])
            for n in range(12)
        ],
    }


@pytest.mark.parametrize(
    ("positives", "group"),
    [("text", [""] * 12), ("patient", WHO), ("groups.site", SITE), ("site", SITE), ("key", [""] * 12)],
)
def test_right_answers_are_those_of_the_group_and_equal_texts(
    run: Run, tiny: Path, tmp_path: Path, positives: str, group: list[str]
) -> None:
    """A text of two patients is one candidate, right for both; but what else one of them has is wrong for the other."""
    out = tmp_path / "out"
    assert score(run, tmp_path, out, tiny, suite=str(own_set(tmp_path, positives=positives))) == 0
    entry = results.read(out)["tasks"][0]
    rows = [json.loads(one) for one in (out / "samples" / "own.jsonl").read_text().splitlines()]
    assert entry["scoring"]["gallery_texts"] == 7
    for short, expected in oracle(tmp_path, tiny, group).items():
        assert [row[f"rank_{short}"] for row in rows] == [rank for rank, _, _ in expected]
        if any(count > 1 for _, count, _ in expected):
            recall = entry["metrics"][f"{short}_recall@3"]["value"]
            assert recall == pytest.approx(np.mean([share for _, _, share in expected]))
        chance = np.mean([count for _, count, _ in expected]) / (7 if short == "i2t" else 12)
        assert entry["metrics"][f"{short}_r@1"]["chance"] == pytest.approx(chance)


@pytest.mark.parametrize("setting", ["positives", "distinct", "oracle"])
def test_a_column_that_no_record_has_is_refused(run: Run, tiny: Path, tmp_path: Path, setting: str) -> None:
    for wrong, meant in (("groups.sit", "site"), ("patients", "patient")):
        suite, out = own_set(tmp_path, **{setting: wrong}), tmp_path / meant
        assert score(run, tmp_path, out, tiny, suite=str(suite)) == 2
        reason = results.read(out)["tasks"][0]["reason"]
        assert reason == f"table.csv: no record has a {wrong!r}: did you mean {meant!r}?"


def test_a_record_without_a_value_repeats_no_other(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert score(run, tmp_path, tmp_path / "out", tiny, suite=str(own_set(tmp_path, distinct="groups.site"))) == 0
    entry = results.read(tmp_path / "out")["tasks"][0]
    blank, kinds = SITE.count(""), len(set(SITE) - {""})
    assert entry["data"]["n"] == blank + kinds
    assert entry["scoring"]["distinct"] == "groups.site"
    assert entry["scoring"]["repeats_left_out"] == 12 - blank - kinds
