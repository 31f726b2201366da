"""DeepSpeed's JSON is generated from the recipe; a file of one's own may add to it, never contradict it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import ROOT
from vlp.core.config import ConfigError
from vlp.train.engines.base import EngineConfig
from vlp.train.engines.deepspeed import deepspeed_config
from vlp.train.optimizer import OptimConfig

RECIPES = ROOT / "recipes" / "deepspeed"


def test_what_must_always_be_written() -> None:
    made = deepspeed_config(EngineConfig(kind="deepspeed", zero=2, offload="cpu"), OptimConfig(clip=0.0), "bf16")
    assert made["gradient_clipping"] == 0.0, "its default is 1.0"
    zero0 = deepspeed_config(EngineConfig(kind="deepspeed", zero=0), OptimConfig(clip=0.0), "fp32")
    assert zero0["gradient_clipping"] > 1e30, "no limit, and yet the norm is looked at"
    assert made["managed_gradient_accumulation"] is False
    assert made["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    assert made["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"} and "optimizer" not in made


def test_keys_of_ones_own_are_added() -> None:
    extra = str(RECIPES / "overlap.json")
    made = deepspeed_config(EngineConfig(kind="deepspeed", zero=3, extra=extra), OptimConfig(), "fp32")
    assert made["zero_optimization"]["stage"] == 3 and made["zero_optimization"]["overlap_comm"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"zero_optimization": {"stage": 1}}', "zero_optimization.stage is given twice, the recipe sets it to 2"),
        ('{"gradient_clipping": 1.0}', "gradient_clipping is given twice"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"a": ', "own.json"),
        ('{"zero_optimization": 3}', "expected a mapping at zero_optimization"),
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "own.json").write_text(text)
    config = EngineConfig(kind="deepspeed", zero=2, extra=str(tmp_path / "own.json"))
    with pytest.raises(ConfigError, match=r"engine\.extra") as error:
        deepspeed_config(config, OptimConfig(), "fp32")
    assert expected in str(error.value)


def test_contradictions() -> None:
    with pytest.raises(ConfigError, match=r"engine\.offload"):
        deepspeed_config(EngineConfig(kind="deepspeed", zero=0, offload="cpu"), OptimConfig(), "fp32")
    with pytest.raises(ConfigError, match="no such file"):
        deepspeed_config(EngineConfig(kind="deepspeed", extra="nowhere.json"), OptimConfig(), "fp32")
