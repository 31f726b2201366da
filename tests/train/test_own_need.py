"""A need of one's own is one file: named in an objective, collated, computed, cut into chunks, saved and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import run
from tests.train.own_need import ByLength, ByLengthConfig
from vlp import hub
from vlp.core.config import ConfigError
from vlp.objectives import Objective


def losses(folder: Path) -> list[float]:
    """Return the objective's own part: the image tower has no dropout, so chunks give what the whole batch gives."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event["ByLength"] for event in events if event["event"] == "train"]


def test_a_need_of_your_own_trains_two_steps_and_its_model_asks_for_trust(recipe: Path, tmp_path: Path) -> None:
    lines = [{"kind": "clip"}, {"kind": "tests.train.own_need:ByLength", "unit": 50.0}]
    settings = [f"objectives={json.dumps(lines)}", "data.workers=0", "train.samples=16", "model.image.norm=group"]
    done = run(recipe, "name=whole", *settings)
    assert done.returncode == 0, done.stderr
    done = run(recipe, "name=chunks", *settings, "train.accumulate=2", "train.cached_embeddings=true")
    assert done.returncode == 0, done.stderr
    whole, chunks = losses(tmp_path / "runs" / "whole"), losses(tmp_path / "runs" / "chunks")
    assert len(whole) == 2 and whole[0] == pytest.approx(chunks[0], rel=1e-3)
    saved = tmp_path / "runs" / "whole" / "last"
    with pytest.raises(ConfigError, match=r"needs: this model is built by code of the module 'tests\.train\.own_need'"):
        hub.from_pretrained(saved, trust=["tests.train.toy_tower"])
    loaded: Any = hub.from_pretrained(saved, trust=["tests.train.toy_tower", "tests.train.own_need"])
    assert "tests.train.own_need:Length" in loaded.model.needs


def test_the_configuration_is_declared_once() -> None:
    assert ByLength.Config is ByLengthConfig and issubclass(ByLength, Objective)
    assert ByLength(ByLengthConfig(unit=2.0), 4).config.unit == 2.0
