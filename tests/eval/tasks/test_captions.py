"""Several captions of an image are several texts of it: any of them answers the image, each of them asks for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run, score
from tests.eval.planted import DIM, direction
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_eval import results
from vlp_prep.pipeline.shard_writer import ShardWriter

COUNT = 60


def captioned(folder: Path, shards: Path, each: int, repeated: bool = False) -> list[Sample]:
    """Write images with so many captions each and return them; `repeated`: a text of the first is one of the second's."""
    source, samples = ShardSet(Manifest.read(shards)), []
    with ShardWriter(folder, source="captioned", version="1") as writer:
        for index in range(COUNT):
            captions = tuple(f"Image {index}, sentence {number}." for number in range(each))
            if repeated and index == 1:
                captions = ("image 0: sentence 0", *captions)
            samples.append(replace(source.sample(index), captions=captions, split="test"))
            writer.write(samples[-1])
    return samples


def scored(run: Run, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    task = {"id": "search", "family": "retrieval", "text": "caption", "k": [1, 5, 10], "primary_k": 5, **settings}
    out.mkdir()
    (out / "suite.yaml").write_text(json.dumps({"version": "1", "about": "captions", "tasks": [task]}))
    assert score(run, data, out / "run", "tests.eval.factories:random", suite=str(out / "suite.yaml")) == 0
    return results.read(out / "run")["tasks"][0]


@pytest.mark.parametrize("each", [1, 5])
def test_protocol_of_coco_and_flickr(
    run: Run, shards: Path, planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int
) -> None:
    samples = captioned(tmp_path / "data", shards, each)
    monkeypatch.setenv("VLP_TEST_SHARDS", str(tmp_path / "data"))
    task = scored(run, tmp_path / "data", tmp_path / "out", pools=[20])
    images = np.stack([direction(f"{one.key}|0", DIM) for one in samples])
    texts = np.stack([direction(f"{text}|text", DIM) for one in samples for text in one.captions])
    similarity, owner = images @ texts.T, np.repeat(np.arange(COUNT), each)
    for short, scores, own in (
        ("i2t", similarity, owner == np.arange(COUNT)[:, None]),
        ("t2i", similarity.T, owner[:, None] == np.arange(COUNT)),
    ):
        best = np.array([row[right].max() for row, right in zip(scores, own, strict=True)])
        places = 1 + (scores > best[:, None]).sum(1)
        for k in (1, 5, 10):
            found = task["metrics"][f"{short}_r@{k}"]
            assert found["value"] == pytest.approx((places <= k).mean())
            assert found["n_queries"] == len(places) and found["gallery"] == scores.shape[1]
        assert task["metrics"][f"{short}_mrr"]["value"] == pytest.approx((1 / places).mean())
        assert task["metrics"][f"{short}_median_rank"]["value"] == np.median(places)
        assert 0 <= task["metrics"][f"{short}_r@1_pool_20"]["value"] < 0.3
    assert ("i2t_recall@1" in task["metrics"]) == (each > 1)
    assert task["data"]["n"] == COUNT and task["scoring"]["gallery_texts"] == COUNT * each
    rows = results.read_samples(tmp_path / "out" / "run", task)
    assert len(rows) == COUNT * each and sum("i2t_mrr" in row for row in rows) == COUNT
    assert run("compare", tmp_path / "out" / "run", tmp_path / "out" / "run", "--resamples", 20) == 0


def test_a_caption_of_two_images_is_right_for_both_and_limits_count_images(
    run: Run, shards: Path, planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = captioned(tmp_path / "data", shards, 3, repeated=True)
    monkeypatch.setenv("VLP_TEST_SHARDS", str(tmp_path / "data"))
    task = scored(run, tmp_path / "data", tmp_path / "all")
    assert task["scoring"]["gallery_texts"] == 3 * COUNT and task["metrics"]["t2i_r@1"]["n_queries"] == 3 * COUNT + 1
    few = scored(run, tmp_path / "data", tmp_path / "few", size=10, distinct="patient")
    patients = list(dict.fromkeys(one.patient for one in samples))
    firsts = [next(one for one in samples if one.patient == patient) for patient in patients[:10]]
    assert few["scoring"]["repeats_left_out"] == COUNT - len(patients) and few["data"]["n"] == 10
    assert few["metrics"]["t2i_r@1"]["n_queries"] == sum(len(one.captions) for one in firsts)


def test_each_caption_is_a_pair_of_the_mismatch_task(
    run: Run, shards: Path, planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioned(tmp_path / "data", shards, 3)
    monkeypatch.setenv("VLP_TEST_SHARDS", str(tmp_path / "data"))
    task = {"id": "wrong", "family": "mismatch", "text": "caption", "edits": ["report"]}
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "captions", "tasks": [task]}))
    suite = str(tmp_path / "suite.yaml")
    assert score(run, tmp_path / "data", tmp_path / "run", "tests.eval.factories:random", suite=suite) == 0
    found = results.read(tmp_path / "run")["tasks"][0]
    assert found["metrics"]["notices_wrong_report"]["n"] == 3 * COUNT
