"""Switches that change how a step is computed and not what is learnt: precision, recomputing, compiling, offload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import run, write_recipe
from tests.train.engines.test_engines import PARTITION_ALL, advance, compare, full_state, make
from tests.train.ranks import run_ranks
from tests.train.test_run import lines
from tests.train.toys import batch, shard, step_of
from vlp.batch import Batch
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.objectives import build_objectives
from vlp.train.engines.base import Engine, EngineConfig, build_engine, resolve_precision
from vlp.train.grad_cache import accumulate_gradients
from vlp.train.optimizer import OptimConfig
from vlp.train.train_step import TrainStep

CPU = torch.device("cpu")


def train(config: EngineConfig, chunks: int = 1, steps: int = 30) -> tuple[Engine, list[float]]:
    """Fit one batch, over and over."""
    engine = build_engine(step_of(["clip"], seed=1), OptimConfig(lr=1e-2), config, CPU)
    losses = []
    for _ in range(steps):
        losses.append(float(accumulate_gradients(engine, batch(8), 0.5, chunks, chunks > 1).total.detach()))
        engine.step(1.0)
    return engine, losses


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_keeps_its_weights_in_fp32(precision: Any, chunks: int) -> None:
    engine, losses = train(EngineConfig(precision=precision), chunks)
    _, exact = train(EngineConfig())
    assert losses[0] == pytest.approx(exact[0], rel=2e-2) and losses[0] != exact[0], "it is another arithmetic"
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx(exact[-1], abs=0.05 * exact[0])
    assert all(value.dtype == torch.float32 for value in engine.weights().values())


def test_a_gradient_that_overflows_in_fp16_is_skipped_and_the_scale_halved(tmp_path: Path) -> None:
    engine, _ = train(EngineConfig(precision="fp16"), steps=2)
    before, scale = engine.weights(), engine.scalars()["scale"]
    before = {name: value.clone() for name, value in before.items()}
    losses = engine.forward(batch(8), 0.5)
    engine.backward(losses.total * 1e38)
    report = engine.step(1.0)
    assert not report.grad_norm.isfinite() and engine.scalars()["scale"] == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in engine.weights().items())
    engine.backward(engine.forward(batch(8), 0.5).total)
    assert engine.step(1.0).grad_norm.isfinite()
    assert not all(torch.equal(value, before[name]) for name, value in engine.weights().items())
    other, _ = train(EngineConfig(precision="fp16"), steps=0)
    engine.save(tmp_path / "state")
    other.load(tmp_path / "state")
    other.set_scalars(engine.scalars())
    assert other.scalars() == engine.scalars(), "the scale is part of the state"


def test_fp16_under_deepspeed_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"engine\.precision: fp16 under deepspeed needs a GPU"):
        resolve_precision(EngineConfig(kind="deepspeed", zero=0, precision="fp16"), CPU)
    assert resolve_precision(EngineConfig(kind="deepspeed"), CPU) == "fp32"
    assert resolve_precision(EngineConfig(precision="fp16"), CPU) == "fp16"


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_fp16_is_refused_where_the_loss_scale_would_be_clipped(zero: Any) -> None:
    config = EngineConfig(kind="deepspeed", zero=zero, precision="fp16")
    for device in (CPU, torch.device("cuda")):
        with pytest.raises(ConfigError, match=r"ZeRO 1 to 3.*use bf16, engine\.zero=0, or engine\.kind=torch with"):
            resolve_precision(config, device)
    assert resolve_precision(EngineConfig(kind="deepspeed", zero=zero, precision="bf16"), CPU) == "bf16"


# ---------------------------------------------------------------- the command


EVEN = ["train.samples=24", "model.text.dropout=0"]
"""No dropout: a compiled model draws from a generator of its own."""


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of three steps without any switch."""
    folder = tmp_path_factory.mktemp("plain")
    done = run(write_recipe(folder, shards), "name=plain", *EVEN)
    assert done.returncode == 0, done.stderr
    return [line["loss"] for line in lines(folder / "runs" / "plain", "train")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["engine.precision=bf16"],
        ["engine.precision=fp16"],
        ["engine.compile=true", "data.workers=0"],
        ["engine.kind=deepspeed", "engine.zero=2", "engine.offload=cpu"],
        ["engine.kind=deepspeed", "engine.zero=3", "engine.precision=bf16"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_the_command_trains_with_each_switch(
    settings: list[str], plain: list[float], recipe: Path, tmp_path: Path
) -> None:
    done = run(recipe, "name=switched", *EVEN, *settings)
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in lines(tmp_path / "runs" / "switched", "train")]
    assert len(losses) == 3
    if any("16" in one for one in settings):  # fp16 may skip its first steps
        assert losses[0] == pytest.approx(plain[0], rel=2e-2) and losses != plain
    else:
        assert losses == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_a_run_whose_gradients_overflow_halves_the_scale_until_they_do_not(recipe: Path, tmp_path: Path) -> None:
    """At fp16's first loss scale of 65536, gradients of a loss weighted by 1000 are beyond 65504."""
    heavy = "objectives=[{kind: clip, positives: group, weight: 1000}]"
    done = run(recipe, "name=heavy", "train.samples=160", "engine.precision=fp16", heavy)
    assert done.returncode == 0, done.stderr
    steps = lines(tmp_path / "runs" / "heavy", "train")
    skipped = [step for step in steps if step["grad_norm"] is None]
    assert skipped == steps[: len(skipped)] and 0 < len(skipped) < len(steps), "the first ones"
    assert [step["loss_scale"] for step in skipped] == [2.0 ** (15 - number) for number in range(len(skipped))]
    assert {step["loss_scale"] for step in steps[len(skipped) :]} == {skipped[-1]["loss_scale"]}
    assert len({step["loss"] for step in steps}) == len(steps) == 20


@pytest.mark.slow
def test_gradients_that_no_scale_saves_end_the_run(recipe: Path, tmp_path: Path) -> None:
    endless = "objectives=[{kind: clip, positives: group, weight: 1.0e30}]"
    done = run(recipe, "name=endless", "train.samples=1000000", "engine.precision=fp16", endless)
    assert done.returncode == 1
    assert "the gradient is not finite" in done.stderr and "keys of the batch: " in done.stderr
    assert len(lines(tmp_path / "runs" / "endless", "stopped")) == 1


# ---------------------------------------------------------------- two ranks


def overflow_main(folder: Path) -> None:
    for name, shard_parameters in (("ddp", False), ("fsdp2", True)):
        engine = make(EngineConfig(precision="fp16", shard=shard_parameters))

        def is_skipped(factor: float = 1.0, engine: Engine = engine) -> bool:
            losses = engine.forward(shard(batch(8), distributed.rank(), 2), 0.5)
            engine.backward(losses.total * factor)
            return not bool(engine.step(1.0).grad_norm.isfinite())

        tries = [is_skipped() for _ in range(12)]  # the first scale may be too large for these gradients
        assert not tries[-1] and distributed.gather_objects(tries) == [tries] * 2
        before, scale = full_state(engine, folder / name / "before"), engine.scalars()["scale"]
        assert is_skipped(1e38 if distributed.rank() == 1 else 1.0), f"{name}: rank {distributed.rank()} went on alone"
        assert engine.scalars()["scale"] == scale / 2
        compare(full_state(engine, folder / name / "after"), before, f"{name} after a skipped step", 0.0)
        assert not is_skipped()
        after = full_state(engine, folder / name / "later")
        assert any(not torch.equal(after[key], value) for key, value in before.items())
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        assert distributed.gather_objects(engine.scalars()) == [engine.scalars()] * 2


def offload_main(folder: Path) -> None:
    for zero in (1, 2, 3):
        states = []
        for offload in ("none", "cpu"):
            engine = make(EngineConfig(kind="deepspeed", zero=zero, offload=offload))  # type: ignore[arg-type]
            advance(engine, 0, 3)
            states.append(full_state(engine, folder / f"{zero}-{offload}"))
        compare(states[1], states[0], f"zero {zero} with offload", 1e-6)


TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
REPORTS = ["A small nodule.", "No pneumothorax.", "The heart is large.", "A device."] * 2


def recompute_main(folder: Path) -> None:
    text = {"kind": "hf", "config": {"model_type": "bert", **TINY, "hidden_dropout_prob": 0.0}}
    image = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 3, "embed_dim": 24, "patch_size": 8}}
    tokenizer = build_tokenizer(TextSpec(vocab_size=60, length=16), REPORTS)
    whole = Batch(
        image=torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        text=tokenizer(REPORTS).tokens,
        group=torch.arange(16).view(8, 2),
        keys=[f"s{row}" for row in range(8)],
    )
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, engine in {
        "ddp": EngineConfig(),
        "fsdp2": EngineConfig(shard=True),
        "zero3": EngineConfig(kind="deepspeed", zero=3, extra=PARTITION_ALL),
    }.items():
        for again in (False, True):
            torch.manual_seed(0)
            objectives = build_objectives(["clip"], 16)
            parts = ({**image, "checkpointing": again}, {**text, "checkpointing": again})
            config = ModelConfig(dim=16, image=parts[0], text=parts[1])
            model = build_model(
                config, ImageSpec(size=32, channels=1), tokenizer, objectives.needs, objectives.scale_init
            )
            made = build_engine(TrainStep(model, objectives), OptimConfig(lr=1e-2), engine, CPU)
            made.module.train()
            for _ in range(3):
                accumulate_gradients(made, shard(whole, distributed.rank(), distributed.world()), 0.5, 1, False)
                made.step(1.0)
            states[f"{name} {again}"] = full_state(made, folder / f"{name}-{again}")
        compare(states[f"{name} True"], states[f"{name} False"], f"{name}, recomputed", 1e-5)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("main", [overflow_main, offload_main, recompute_main], ids=lambda one: one.__name__)
def test_two_ranks(main: Any, tmp_path: Path) -> None:
    """An fp16 overflow on one rank is skipped by both; offload and recomputing change nothing."""
    run_ranks(main, 2, tmp_path, tmp_path)
