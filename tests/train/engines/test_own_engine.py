"""A new engine is one file: named in a recipe, built and stepped, its checkpoint read by another engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.engines.toy_engine import CarefulEngine
from tests.train.toys import batch, step_of
from vlp.core.config import ConfigError
from vlp.train.engines.base import EngineConfig, build_engine, engines
from vlp.train.optimizer import OptimConfig
from vlp.train.recipe import from_tree, load_recipe

NAME = "tests.train.engines.toy_engine:CarefulEngine"
CPU = torch.device("cpu")


def made(kind: str) -> Any:
    return build_engine(step_of(["clip"], seed=1), OptimConfig(lr=1e-2), EngineConfig(kind=kind), CPU)


def test_a_new_engine_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made(NAME)
    assert isinstance(engine, CarefulEngine)
    before = {name: value.clone() for name, value in engine.weights().items()}

    def advance() -> bool:
        engine.backward(engine.forward(batch(8), 0.5).total)
        engine.step(1.0)
        return any(not torch.equal(value, before[name]) for name, value in engine.weights().items())

    monkeypatch.setattr(CarefulEngine, "largest", 0.0)
    assert not advance()
    monkeypatch.setattr(CarefulEngine, "largest", 1e6)
    assert advance()
    engine.save(tmp_path / "state")
    other = made("torch")
    other.load(tmp_path / "state")
    assert all(torch.equal(value, other.weights()[name]) for name, value in engine.weights().items())


def test_a_name_that_there_is_not_is_told_the_near_one(tmp_path: Path) -> None:
    assert list(engines) == ["deepspeed", "torch"]
    for kind, words in (("deepsped", "did you mean 'deepspeed'"), ("no_such:Engine", "cannot import engine")):
        with pytest.raises(ConfigError, match=rf"engine\.kind: .*{words}"):
            made(kind)
        tree = {"name": "x", "data": {"train": "x", "batch_size": 8}, "model": {"image": {}, "text": {}}}
        tree |= {"objectives": ["clip"], "train": {"samples": 8}, "engine": {"kind": kind}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
        with pytest.raises(ConfigError, match=rf"engine\.kind: .*{words}"):
            load_recipe(tmp_path / "recipe.yaml")
        assert from_tree(tree).engine.kind == kind, "a checkpoint's recipe imports nothing"


def test_deepspeed_is_imported_by_its_engine_alone() -> None:
    script = (
        "import sys, vlp.train.trainer, vlp.train.engines; from vlp.train.engines.base import engines; "
        "assert 'torch' in engines and 'deepspeed' in engines; assert 'deepspeed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
