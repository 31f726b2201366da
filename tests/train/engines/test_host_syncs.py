"""How often a training step waits for its device, counted: each such wait empties a GPU's queue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.test_kinds_train import FINDINGS, KINDS, lines_of
from vlp.models.dual_encoder import DualEncoder
from vlp.train.recipe import load_recipe
from vlp.train.trainer import train

WAITS = (
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "unique",
    "_unique2",
    "repeat_interleave",
)
"""Operations whose result the host needs: float(), bool(), int() and item() of a tensor, and shapes that depend on values."""


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in WAITS or is_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    with monkeypatch.context() as patch, Waits() as mode:
        # a CPU sorts texts by length before it embeds them; where waiting costs something they go as they come
        patch.setattr(DualEncoder, "_pooled", lambda self, tokens: self._text(tokens).pooled)
        for name in ("tolist", "cpu", "numpy"):
            whole = getattr(Tensor, name)

            def wrapped(self: Tensor, *args: Any, name: str = name, whole: Any = whole, **kwargs: Any) -> Any:
                mode.found[name] += 1
                return whole(self, *args, **kwargs)

            patch.setattr(Tensor, name, wrapped)
        yield mode


def waits(recipe: Path, monkeypatch: pytest.MonkeyPatch, steps: int, lines: int, *changes: str) -> Counter[str]:
    """Count the waits of a run of so many steps and lines of the log, and one checkpoint at its end."""
    asked = [f"train.samples={8 * steps}", f"train.log_every={steps // lines}", f"name=run-{steps}-{lines}"]
    asked += ["train.checkpoint_every_steps=null", "log.console=false", *changes]
    with noted(monkeypatch) as mode:
        assert train(load_recipe(recipe, asked)) == "finished"
    return mode.found


PER_STEP, PER_LINE = 0, 1
"""A step leaves its losses and its gradient's norm on the device; a line of the log fetches all of them at once."""


BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize("objective", ["clip", "siglip", "convirt"])
def test_a_step_and_a_line_of_the_log_wait_no_more_often_than_they_must(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    change = f"objectives=[{objective}]"
    short, long = (waits(recipe, monkeypatch, steps, 1, change) for steps in (6, 12))
    more, often = long - short, waits(recipe, monkeypatch, 12, 4, change) - long
    assert sum(more.values()) <= 6 * PER_STEP, more
    assert sum(often.values()) <= 3 * PER_LINE, often


def test_an_fp16_step_waits_no_more_than_others(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (waits(recipe, monkeypatch, steps, 1, "engine.precision=fp16") for steps in (6, 12))
    assert sum((long - short).values()) <= 6 * PER_STEP, long - short


ON_SPANS = 2
"""The mentions and their tokens are chosen by their values: how many there are is a shape that the host must know."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_waits_in_a_step(recipe: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    text = f"model.text={json.dumps({'kind': 'hf', 'config': BERT, 'pooling': 'cls'})}"
    changes = [
        f"objectives={json.dumps(lines_of(kind))}",
        f"data.labels={json.dumps(FINDINGS)}",
        text,
    ]
    more = waits(recipe, monkeypatch, 4, 1, *changes) - waits(recipe, monkeypatch, 2, 1, *changes)
    assert sum(more.values()) <= 2 * (ON_SPANS if kind == "concept" else 0), more
