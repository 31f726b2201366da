"""Every engine at two ranks does what one process does with the whole batch, and they read each other's checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.ranks import run_ranks
from tests.train.toys import FINDINGS, batch, shard, step_of
from vlp.core import distributed
from vlp.train.engines.base import Engine, EngineConfig, Part, build_engine
from vlp.train.grad_cache import accumulate_gradients
from vlp.train.optimizer import OptimConfig, lr_scale

OBJECTIVES: list[Any] = [
    "convirt",
    {"kind": "mgca", "weight": 0.5, "prototypes": 12, "freeze": 0.0},
    {"kind": "concept", "weight": 0.5},
    {"kind": "assertion", "findings": {one: one for one in FINDINGS}},
]
OPTIM = OptimConfig(lr=1e-2, clip=0.5, warmup_samples=16, multipliers={"text": 0.5})
STEPS = 5
PARTS: tuple[Part, ...] = ("model", "objectives")

# Without the threshold, stage 3 keeps parameters as small as these whole, and nothing is partitioned.
PARTITION_ALL = str(Path(__file__).parent / "partition_all.json")
ENGINES: dict[str, EngineConfig] = {
    "ddp": EngineConfig(),
    "fsdp2": EngineConfig(shard=True),
    "zero0": EngineConfig(kind="deepspeed", zero=0),
    "zero1": EngineConfig(kind="deepspeed", zero=1),
    "zero2": EngineConfig(kind="deepspeed", zero=2),
    "zero3": EngineConfig(kind="deepspeed", zero=3, extra=PARTITION_ALL),
}


def make(config: EngineConfig, optim: OptimConfig = OPTIM) -> Engine:
    engine = build_engine(step_of(OBJECTIVES, seed=1), optim, config, torch.device("cpu"))
    engine.module.train()
    return engine


def advance(engine: Engine, first: int, last: int, chunks: int = 1) -> list[float]:
    losses = []
    for number in range(first, last):
        mine = shard(batch(8, seed=number), distributed.rank(), distributed.world())
        loss = accumulate_gradients(engine, mine, number / 10, chunks, chunks > 1).total.detach()
        losses.append(float(distributed.sum_over_ranks(loss)) / distributed.world())
        engine.step(lr_scale(OPTIM, 8 * (number + 1), 8 * 10))
    return losses


def full_state(engine: Engine, folder: Path) -> dict[str, torch.Tensor]:
    """Return the engine's whole state by way of a checkpoint: shards put together again."""
    engine.save(folder)
    distributed.barrier()
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    metadata: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    whole = {name: torch.zeros(one.size, dtype=one.properties.dtype) for name, one in metadata.items()}
    from vlp.train.engines.state import read_state

    read_state(whole, folder)
    distributed.barrier()
    return whole


def ranks_main(names: list[str], folder: Path) -> None:
    """On two ranks: train, in one piece and in cached chunks; save midway, resume, compare; leave what a test compares."""
    for name in names:
        config = ENGINES[name]
        home = folder / name
        whole = make(config)
        losses = advance(whole, 0, 3)
        whole.save(home / "middle")
        losses += advance(whole, 3, STEPS)
        state = full_state(whole, home / "end")
        weights = {part: whole.weights(part) for part in PARTS}
        assert all(bool(found) == distributed.is_main() for found in weights.values())
        if distributed.is_main():
            save_file(state, home / "state.safetensors")
            for part, found in weights.items():
                save_file({key: value.contiguous() for key, value in found.items()}, home / f"{part}.safetensors")
            save_file({"losses": torch.tensor(losses)}, home / "losses.safetensors")

        cached = make(config)
        advance(cached, 0, STEPS, chunks=2)
        cached_state = full_state(cached, home / "cached")
        if distributed.is_main():
            save_file(cached_state, home / "cached.safetensors")

        resumed = make(config)
        resumed.load(home / "middle")
        again = advance(resumed, 3, STEPS)
        assert again == losses[3:], f"{name}: resumed losses {again}, uninterrupted {losses[3:]}"
        resumed_state = full_state(resumed, home / "resumed")
        for key, value in state.items():
            assert torch.equal(resumed_state[key], value), f"{name}: {key} after resuming"


def foreign_main(folder: Path, names: list[str]) -> None:
    """On two ranks: go on from every other engine's checkpoint."""
    for reader in names:
        for writer in [*names, "one"]:
            engine = make(ENGINES[reader])
            engine.load(folder / writer / "middle")
            advance(engine, 3, STEPS)
            state = full_state(engine, folder / f"{reader}-from-{writer}")
            expected = load_file(folder / "one" / "state.safetensors")
            compare(state, expected, f"{reader} from {writer}", 1e-5)


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str, tolerance: float) -> None:
    assert found.keys() == expected.keys(), f"{what}: {found.keys() ^ expected.keys()}"
    for key, value in expected.items():
        largest = float((found[key] - value).abs().max()) if value.numel() else 0.0
        assert largest <= tolerance, f"{what}: {key} differs by {largest:.1e}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does in the same five steps, as a checkpoint after three and a state at the end."""
    folder = tmp_path_factory.mktemp("engines")
    engine = make(EngineConfig())
    losses = advance(engine, 0, 3)
    engine.save(folder / "one" / "middle")
    losses += advance(engine, 3, STEPS)
    save_file(full_state(engine, folder / "one" / "end"), folder / "one" / "state.safetensors")
    save_file({"losses": torch.tensor(losses)}, folder / "one" / "losses.safetensors")
    return folder


def check_against_one(folder: Path, names: list[str]) -> None:
    expected = load_file(folder / "one" / "state.safetensors")
    for name in names:
        compare(load_file(folder / name / "state.safetensors"), expected, name, 1e-5)
        compare(load_file(folder / name / "cached.safetensors"), expected, f"{name}, cached", 1e-5)
        for part in PARTS:
            start = f"param.{part}."
            own = {key.removeprefix(start): value for key, value in expected.items() if key.startswith(start)}
            assert own, part
            compare(load_file(folder / name / f"{part}.safetensors"), own, f"{name}: exported {part}", 1e-5)
        torch.testing.assert_close(
            load_file(folder / name / "losses.safetensors"), load_file(folder / "one" / "losses.safetensors")
        )


TORCH, DEEPSPEED = ["ddp", "fsdp2"], ["zero0", "zero1", "zero2", "zero3"]


@pytest.mark.dist
@pytest.mark.parametrize("names", [TORCH, pytest.param(DEEPSPEED, marks=pytest.mark.slow)], ids=["torch", "deepspeed"])
def test_two_ranks_do_what_one_process_does(folder: Path, names: list[str]) -> None:
    run_ranks(ranks_main, 2, folder / "-".join(names), names, folder, cold=True)  # as users start them
    check_against_one(folder, names)


def norms(config: EngineConfig, clip: float) -> list[float]:
    engine, found = make(config, replace(OPTIM, clip=clip)), []
    for number in range(3):
        mine = shard(batch(8, seed=number), distributed.rank(), distributed.world())
        engine.backward(engine.forward(mine, number / 10).total)
        found.append(float(engine.step(1.0).grad_norm))
    return found


def norms_main(names: list[str], folder: Path) -> None:
    for name in names:
        found = {str(clip): torch.tensor(norms(ENGINES[name], clip)) for clip in (0.0, 0.5)}
        if distributed.is_main():
            save_file(found, folder / f"norms-{name}.safetensors")


@pytest.mark.dist
@pytest.mark.parametrize("names", [TORCH, pytest.param(DEEPSPEED, marks=pytest.mark.slow)], ids=["torch", "deepspeed"])
def test_every_engine_tells_the_whole_gradients_norm(names: list[str], tmp_path: Path) -> None:
    """Before clipping, and where nothing is clipped; the oracle is a sum over the gradients of one process."""
    run_ranks(norms_main, 2, tmp_path, names, tmp_path)
    engine = make(EngineConfig())
    engine.backward(engine.forward(batch(8, seed=0), 0.0).total)
    squares = [float(one.grad.double().square().sum()) for one in engine.module.parameters() if one.grad is not None]
    for clip in (0.0, 0.5):
        expected = torch.tensor(norms(EngineConfig(), clip))
        assert float(expected[0]) == pytest.approx(sum(squares) ** 0.5, rel=1e-5) and float(expected[0]) > 0.5
        for name in names:
            torch.testing.assert_close(load_file(tmp_path / f"norms-{name}.safetensors")[str(clip)], expected, msg=name)


def text_left_out(name: str) -> Engine:
    """Two steps of a loss that never looks at the texts."""
    tree = {"kind": "mae", "patch": 3, "channels": 1, "width": 8, "depth": 1, "heads": 2}
    engine = build_engine(step_of([tree], seed=1), OPTIM, ENGINES[name], torch.device("cpu"))
    for number in range(2):
        mine = shard(batch(8, seed=number), distributed.rank(), distributed.world())
        engine.backward(engine.forward(mine, 0.5).total)
        engine.step(1.0)
    return engine


def text_left_out_main(folder: Path) -> None:
    for name in TORCH:
        weights = text_left_out(name).weights()
        if distributed.is_main():
            save_file(weights, folder / f"{name}.safetensors")


@pytest.mark.dist
def test_a_loss_may_leave_a_part_of_the_model_without_a_gradient(tmp_path: Path) -> None:
    run_ranks(text_left_out_main, 2, tmp_path, tmp_path)
    for name in TORCH:
        compare(load_file(tmp_path / f"{name}.safetensors"), text_left_out("ddp").weights(), name, 1e-5)


@pytest.mark.dist
@pytest.mark.slow
def test_engines_read_each_others_checkpoints(folder: Path) -> None:
    names = [*TORCH, "zero1", "zero3"]
    for name in names:
        if not (folder / name / "middle").is_dir():
            pytest.skip("the checkpoints are written by the tests above")
    run_ranks(foreign_main, 2, folder / "foreign", folder, names)
    for writer in names:  # and one process reads what two ranks wrote
        engine = make(EngineConfig())
        engine.load(folder / writer / "middle")
        advance(engine, 3, STEPS)
        expected = load_file(folder / "one" / "state.safetensors")
        compare(full_state(engine, folder / f"one-from-{writer}"), expected, f"one process from {writer}", 1e-5)
