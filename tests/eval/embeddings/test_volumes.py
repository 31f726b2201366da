"""Volumes embedded and scored: the same vectors as `from_pretrained` gives, with where each lies on the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vlp.batch import Grid
from vlp.hub import from_pretrained
from vlp_eval import results
from vlp_eval.data.load import read
from vlp_eval.data.spec import DataError, DataSpec
from vlp_eval.embeddings.cache import EmbeddingCache
from vlp_eval.models.load import load

CLASSES = ["effusion", "consolidation", "nodule", "pneumothorax"]


def suite(folder: Path) -> Path:
    """Write a suite of every family that scores embeddings alone."""
    sentences = {name: {"pos": [f"There is {name}."], "neg": [f"No {name}."]} for name in CLASSES}
    prompts = {"version": "1", "about": "for a test", "classes": sentences}
    (folder / "words.yaml").write_text(yaml.safe_dump(prompts))
    tasks: list[dict[str, Any]] = [
        {"id": "retrieval", "family": "retrieval"},
        {"id": "classification", "family": "classification", "classes": CLASSES, "prompts": ["words.yaml"]},
        {"id": "probe", "family": "probe", "classes": CLASSES, "shares": [1.0], "seeds": [0]},
        {"id": "class_retrieval", "family": "class_retrieval", "classes": CLASSES, "k": [5]},
        {"id": "mismatch", "family": "mismatch"},
    ]
    tree = {"version": "1", "about": "for a test", "tasks": tasks}
    (folder / "suite.yaml").write_text(yaml.safe_dump(tree))
    return folder / "suite.yaml"


def test_a_volume_is_embedded_as_from_pretrained_does_it(scans: Path, tiny3d: Path, tmp_path: Path) -> None:
    data, loaded = read(DataSpec(), scans), from_pretrained(tiny3d)
    cache = EmbeddingCache(tmp_path, load(str(tiny3d), "cpu"))
    indices = list(range(5))
    rows = cache.images(data, indices)
    wanted = loaded.embed_images([data.image(index) for index in indices]).numpy()
    np.testing.assert_allclose(rows / np.linalg.norm(rows, axis=1, keepdims=True), wanted, atol=1e-5)
    again = EmbeddingCache(tmp_path, None)
    volume = loaded.preprocess.native(data.image(3))
    assert again.geometry(data, 3) == cache.geometry(data, 3) == loaded.preprocess.eval(volume)[1]
    assert again.spacing(data, 3) == (12.0, 12.0, 12.0)
    assert again.grid == cache.grid == loaded.model.grid and isinstance(again.grid, Grid) and len(again.grid.shape) == 3


def test_every_family_of_embeddings_scores_volumes(
    scans: Path, tiny3d: Path, tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", tiny3d, "--suite", suite(tmp_path), "--data", scans, "--out", tmp_path / "out"]
    assert run("run", *words, "--resamples", 50) == 0, capsys.readouterr().err
    tree = results.read(tmp_path / "out")
    assert all(task["status"] == "ok" and task["data"]["n"] >= 20 for task in tree["tasks"])
    assert tree["model"]["image_spec"]["kind"] == "volume"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "24 x 20 x 24" in page and page.count("data:image/jpeg") > 10


def test_large_volumes_are_worked_on_a_few_at_a_time(tmp_path: Path, tiny3d: Path) -> None:
    cache = EmbeddingCache(tmp_path, load(str(tiny3d), "cpu"))
    wanted = {(24, 20, 24): 32, (112, 224, 224): 2, (96, 96, 96): 18, (480, 512, 512): 1}
    for size, rows in wanted.items():
        cache.card.image_spec["size"] = list(size)
        assert cache.rows == rows


def test_corruptions_of_grey_pixels_are_refused(scans: Path, tiny3d: Path, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, load(str(tiny3d), "cpu"))
    with pytest.raises(DataError, match="noise-1: changes of grey pixels are of images"):
        cache.images(read(DataSpec(), scans), [0], "noise-1", lambda pixels: pixels)
