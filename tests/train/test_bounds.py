"""A learnt scale is kept in its range by every engine after its step, can always leave the end, and starts where it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.tiny import batch as real_batch
from tests.models.tiny import make as make_model
from tests.train.engines.test_engines import ENGINES
from tests.train.ranks import run_ranks
from tests.train.toys import WIDTH, batch, shard, step_of
from vlp.batch import Batch, Losses, ModelOutput
from vlp.core import distributed
from vlp.objectives import build_objectives
from vlp.train.engines.base import EngineConfig, build_engine
from vlp.train.grad_cache import accumulate_gradients
from vlp.train.optimizer import OptimConfig, bounded_parameters
from vlp.train.train_step import TrainStep

TOP = math.log(100)
FAST = OptimConfig(lr=0.05, clip=0.0, weight_decay=0.0, schedule="constant")


class Pull(nn.Module):
    """An objective that pulls one scale up, and later down."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner, self.name, self.direction = inner, name, -1.0

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 0.0) -> Losses:
        losses: Losses = self.inner(output, batch, progress)
        scale = self.inner.get_parameter(self.name) if self.name else output.logit_scale
        assert scale is not None
        return Losses(0 * losses.total + self.direction * scale.sum(), losses.parts)


def up_and_down(kind: str, out: Path) -> None:
    step = step_of([{"kind": "concept", "align": "none", "scale": 99.0}], seed=1)
    name = "terms.concept.concept_logit_scale"
    pull = Pull(step.objectives, name)
    engine = build_engine(TrainStep(step.model, pull), FAST, ENGINES[kind], torch.device("cpu"))
    seen = []
    for direction in (-1.0,) * 3 + (1.0,) * 7:  # enough for the moments to turn
        pull.direction = direction
        accumulate_gradients(engine, shard(batch(8), distributed.rank(), distributed.world()), 0.0, 1, False)
        engine.step(1.0)
        found = engine.weights("objectives")
        seen.append(float(found[f"inner.{name}"]) if found else 0.0)
    if distributed.is_main():
        torch.save(seen, out / "seen.pt")


@pytest.mark.dist
@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_brings_a_scale_back_and_lets_it_fall(kind: str, tmp_path: Path) -> None:
    run_ranks(up_and_down, 2, tmp_path, kind, tmp_path)
    seen = torch.load(tmp_path / "seen.pt")
    assert seen[:3] == pytest.approx([TOP] * 3, abs=1e-6)
    assert max(seen) < TOP + 1e-6 and seen[-1] < TOP - 0.005, seen


@pytest.mark.parametrize(("start", "top"), [(100.0, TOP), (117.2, math.log(117.2)), (14.0, TOP)])
def test_a_models_scale_starts_exactly_where_it_was(start: float, top: float, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    needs = frozenset({"logit_scale"})
    first, _ = make_model(needs=needs)
    tensors = {name: value.contiguous().clone() for name, value in first.state_dict().items()}
    tensors["logit_scale"] = torch.tensor([math.log(start)])
    save_file(tensors, str(tmp_path / "model.safetensors"))
    model, tokenizer = make_model(needs=needs, pretrained=str(tmp_path))
    assert model.logit_scale is not None and torch.equal(model.logit_scale.detach(), tensors["logit_scale"])
    data = real_batch(tokenizer)
    assert model(data).logit_scale.item() == pytest.approx(start, rel=1e-6)
    ((_, low, high),) = bounded_parameters(model)
    assert low == 0.0 and high == pytest.approx(top, rel=1e-6) and high >= float(model.logit_scale.detach())
    pull = Pull(build_objectives(["clip"], model.dim), "")
    engine = build_engine(TrainStep(model, pull), FAST, EngineConfig(), torch.device("cpu"))
    seen: list[float] = []
    for direction in (0.0, -1.0, 1.0, 1.0, 1.0):
        pull.direction = direction
        accumulate_gradients(engine, data, 0.0, 1, False)
        engine.step(1.0)
        seen.append(float(model.logit_scale.detach()))
    assert seen[0] == float(tensors["logit_scale"]), "kept exactly where nothing pulls"
    assert max(seen) <= high + 1e-6 and seen[-1] < seen[1]


def test_an_objective_of_ones_own_names_its_scales() -> None:
    step: Any = step_of([{"kind": "concept", "loss": "softmax"}, {"kind": "concept", "align": "clip"}])
    assert [(low, high) for _, low, high in bounded_parameters(step)] == [(0.0, TOP)]
    assert WIDTH == 8


def test_a_saved_model_is_scored_with_the_scale_that_it_trained_with(tmp_path: Path) -> None:
    from vlp import hub
    from vlp.export.base import log_scale
    from vlp.modalities.image.processor import ImageProcessor

    model, tokenizer = make_model(needs=frozenset({"logit_scale"}), scale_init=(math.log(117.2), None))
    hub.save_pretrained(tmp_path, model, ImageProcessor(model.spec), tokenizer)
    loaded = hub.from_pretrained(tmp_path).model
    assert loaded.bounds() == model.bounds() and loaded.logit_scale is not None
    scale = float(loaded(real_batch(tokenizer)).logit_scale)
    assert (
        scale == pytest.approx(float(loaded.logit_scale.detach().exp())) == pytest.approx(math.exp(log_scale(loaded)))
    )
