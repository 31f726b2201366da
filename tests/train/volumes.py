"""Synthetic CTs of 24 x 20 x 24 voxels as shards, and a recipe that trains on them within a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.data.toys import make_scan
from vlp.train.engines.base import Engine
from vlp.train.recipe import load_recipe
from vlp.train.setup import Components, build, open_data
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.reports.concepts import Extractor
from vlp_prep.synthetic.ct.state import FINDINGS

RECIPE = """
seed: 3
volume: {spacing: [12, 12, 12], size: [24, 20, 24], windows: [lung, mediastinum]}
tokenizer: {kind: wordpiece, vocab_size: 200, length: 96}
model:
  dim: 16
  image: {kind: patch_conv, hidden: 16, width: 16, local_width: 8, norm: layer}
  text: {kind: "tests.train.toy_tower:ToyText"}
data: {batch_size: 8, workers: 0, text: {subset: 0.5}, augment: {shift: 0.05, rotate: 5, crop_scale: [0.8, 1.0]}}
objectives: [{kind: clip, positives: group}]
optim: {lr: 1.0e-3, warmup_samples: 8}
engine: {timeout_minutes: 1}
train: {samples: 16, log_every: 1}
"""

IN_LUNG = [finding for finding in FINDINGS if finding not in ("cardiomegaly", "calcification")]
ANATOMY = {
    "kind": "anatomy",
    "organs": {"lung": {"codes": IN_LUNG, "masks": IN_LUNG}, "heart": {"codes": ["cardiomegaly"], "masks": ["cardiomegaly"]}},
    "whole": False,
}  # fmt: skip
DEPTH = {"kind": "depth", "sigma": 48.0}


def write_scans(folder: Path) -> Path:
    """Write 24 studies for training."""
    extract = Extractor(roll_up=FINDINGS).of_report
    with ShardWriter(folder, shard_size=8, source="synthetic_ct", version="test") as writer:
        for index in range(24):
            sample = make_scan(index)
            assert sample.report is not None
            writer.write(replace(sample, split="train", concepts=extract(sample.report)))
    return folder


def write_recipe(folder: Path, scans: Path) -> Path:
    path = folder / "volumes.yaml"
    path.write_text(RECIPE.replace("data: {", f"data: {{train: {scans}, ") + f"out: {folder / 'runs'}\n")
    return path


def built(recipe: Path, folder: Path, objectives: Sequence[Any], *settings: str) -> tuple[Components, Engine]:
    """Return what a run of the recipe is made of, on this rank."""
    folder.mkdir(parents=True, exist_ok=True)
    read = load_recipe(recipe, [f"objectives={json.dumps(objectives)}", "data.labels=[nodule, mass]", *settings])
    components = build(read, folder, open_data(read))
    return components, components.engine
