"""Ordinary batch-normalised networks learn on two ranks what they learn on one: torch's own layer is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.models.tiny import BERT, REPORTS, wordpieces
from tests.train.engines.test_engines import PARTITION_ALL, full_state
from tests.train.ranks import run_ranks
from tests.train.toys import shard
from vlp.batch import Batch
from vlp.core import distributed
from vlp.modalities.image.spec import ImageSpec
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.objectives import build_objectives
from vlp.train.engines.base import Engine, EngineConfig, average_gradients, build_engine
from vlp.train.engines.sync_batch_norm import RanksBatchNorm, share_statistics
from vlp.train.grad_cache import accumulate_gradients
from vlp.train.optimizer import OptimConfig
from vlp.train.train_step import TrainStep

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))


class Rows(nn.Module):
    """Batch normalisation of rows [B, C], once without scale and shift and once as a cumulative average."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(75, affine=False), nn.BatchNorm1d(75, momentum=None)

    def forward(self, image: Tensor) -> Tensor:
        normal: Tensor = self.second(self.first(image[:, :, :5, :5].flatten(1)).tanh())
        return normal


NETWORKS: dict[str, Any] = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=0),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=0),  # its norms hold the activation
    "hf_resnet": hf_resnet,
    "rows": Rows,
}


def network_main(folder: Path) -> None:
    """Three forward-backward passes of each network in fp64; leave features, gradients and buffers."""
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network = build().double().train()
        share_statistics(network)
        found: dict[str, Tensor] = {}
        for turn in range(3):
            generator = torch.Generator().manual_seed(turn)
            whole = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=generator) * 2 + 1
            rows = slice(
                8 // distributed.world() * distributed.rank(), 8 // distributed.world() * (distributed.rank() + 1)
            )
            image = whole[rows].clone().requires_grad_()
            features = _tensor(network(image))
            weights = torch.randn(8, *features.shape[1:], dtype=torch.float64, generator=generator)
            (features * weights[rows]).sum().backward()
            assert image.grad is not None
            found |= {
                f"features.{turn}": distributed.gather(features.detach()),
                f"image.{turn}": distributed.gather(image.grad),
            }
        average_gradients(list(network.parameters()))
        for key, value in network.named_parameters():
            assert value.grad is not None
            found[f"grad.{key}"] = value.grad * distributed.world()
        for key, value in network.named_buffers():
            every = distributed.gather(value.reshape(1, -1))
            assert (every == every[:1]).all(), f"{name}: {key} differs between ranks"
            found[f"buffer.{key}"] = value
        network.eval()
        found["eval"] = distributed.gather(_tensor(network(whole[rows])).detach())
        if distributed.is_main():
            save_file(
                {key: value.contiguous() for key, value in found.items()}, folder / f"{name}-{distributed.world()}"
            )


def _tensor(features: Any) -> Tensor:
    found: Tensor = features if torch.is_tensor(features) else features.pooler_output
    return found


@pytest.mark.dist
def test_networks_of_others_give_the_same_on_two_ranks(tmp_path: Path) -> None:
    network_main(tmp_path)
    run_ranks(network_main, 2, tmp_path, tmp_path)
    for name in NETWORKS:
        one, two = load_file(tmp_path / f"{name}-1"), load_file(tmp_path / f"{name}-2")
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert torch.allclose(two[key], value, rtol=1e-9, atol=1e-9), f"{name}: {key}"


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_layer_alone_is_torchs(device: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """On a GPU it is made of other kernels than on a CPU; none may wait for the device."""
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(16, device=device).train()
    nn.init.uniform_(theirs.weight)
    ours = copy.deepcopy(theirs)
    ours.__class__ = RanksBatchNorm
    image = torch.randn(6, 16, 5, 7, device=device) * 2 + 1
    first, second = (image.to(dtype).contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    weights = torch.randn(image.shape, device=device).to(dtype)
    expected = theirs(first)
    (expected * weights).sum().backward()
    with no_waiting(device):
        found = ours(second)
        (found * weights).sum().backward()
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **near)
    torch.testing.assert_close(second.grad, first.grad, **near)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, **near)
    for (key, one), two in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=key)


class Own(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * 2)


def warning_main(folder: Path) -> None:
    import logging

    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("vlp").addHandler(Keep())
    model = nn.Sequential(nn.BatchNorm2d(3), Own(3), nn.SyncBatchNorm(3))
    share_statistics(model)
    assert len(said) == 1 and said[0].startswith("1: a Own is left as it is"), said
    assert type(model[1]) is Own and type(model[0]) is type(model[2])
    model(torch.randn(2, 3, 4, 4)).sum().backward()


@pytest.mark.dist
def test_a_layer_with_a_forward_of_its_own_is_left_and_named(tmp_path: Path) -> None:
    run_ranks(warning_main, 2, tmp_path, tmp_path)


# ---------------------------------------------------------------------- through the engines

ENGINES: dict[str, EngineConfig] = {
    "ddp": EngineConfig(),
    "fsdp2": EngineConfig(shard=True),
    "zero1": EngineConfig(kind="deepspeed", zero=1),
    "zero3": EngineConfig(kind="deepspeed", zero=3, extra=PARTITION_ALL),
}
CHANGES: dict[str, dict[str, Any]] = {"": {}, "-recomputed": {"checkpointing": True}, "-frozen": {"freeze_layers": 2}}


def make(engine: EngineConfig, change: dict[str, Any]) -> Engine:
    torch.manual_seed(0)
    objectives = build_objectives(["convirt"], 16)
    config = ModelConfig(dim=16, image={"kind": "timm", "name": "test_resnet", **change}, text=BERT)
    spec = ImageSpec(size=32, channels=1)
    model = build_model(config, spec, wordpieces(), objectives.needs, objectives.scale_init)
    # A plain step, whose size follows the gradient's: Adam's would make much of the rounding of gradients near 0.
    made = build_engine(TrainStep(model, objectives), OptimConfig(lr=1e-3, eps=1e-3), engine, torch.device("cpu"))
    made.module.train()
    return made


def engine_main(names: list[str], folder: Path) -> None:
    whole = Batch(
        image=torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        text=wordpieces()(REPORTS * 2).tokens,
        group=torch.arange(16).view(8, 2),
        keys=[f"s{row}" for row in range(8)],
    )
    for name in names:
        for change, options in CHANGES.items():
            engine = make(ENGINES[name], options)
            losses = []
            for _ in range(3):
                mine = shard(whole, distributed.rank(), distributed.world())
                loss = accumulate_gradients(engine, mine, 0.5, 1, False).total.detach()
                losses.append(float(distributed.sum_over_ranks(loss)) / distributed.world())
                engine.step(1.0)
            home = f"{name}{change}-{distributed.world()}"
            state = full_state(engine, folder / home)
            state["losses"] = torch.tensor(losses)
            exported = engine.weights()
            for key, value in engine.module.named_buffers():
                every = distributed.gather(value.reshape(1, -1))
                assert (every == every[:1]).all(), f"{name}: {key} differs between ranks"
            if distributed.is_main():
                for key, value in exported.items():
                    kept = state.get(f"param.model.{key}", state.get(f"buffer.model.{key}"))
                    assert kept is not None and torch.equal(value, kept.view_as(value)), key
                assert sum("running_mean" in key for key in exported) > 5
                save_file(state, folder / f"{home}.safetensors")


@pytest.mark.dist
@pytest.mark.parametrize(
    "names", [["ddp", "fsdp2"], pytest.param(["zero1", "zero3"], marks=pytest.mark.slow)], ids=["torch", "deepspeed"]
)
def test_engines_train_a_resnet_as_one_process_does(names: list[str], tmp_path: Path) -> None:
    engine_main(["ddp"], tmp_path)
    run_ranks(engine_main, 2, tmp_path / "ranks", names, tmp_path)
    for change in CHANGES:
        one = load_file(tmp_path / f"ddp{change}-1.safetensors")
        for name in names:
            two = load_file(tmp_path / f"{name}{change}-2.safetensors")
            assert one.keys() == two.keys()
            for key, value in one.items():
                found = two[key]
                assert torch.allclose(found, value, rtol=1e-4, atol=2e-5), (
                    f"{name}{change}: {key} differs by {float((found - value).abs().max()):.1e}"
                )
