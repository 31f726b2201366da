"""Training on volumes: every objective, chunks, ranks, and a run that goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import run
from tests.train.ranks import run_ranks
from tests.train.test_grad_cache import assert_same, grads
from tests.train.test_run import assert_same_checkpoint
from tests.train.volumes import ANATOMY, DEPTH, FINDINGS, built, write_recipe, write_scans
from vlp.core.config import ConfigError
from vlp.objectives import objectives
from vlp.train.grad_cache import accumulate_gradients

LINES: dict[str, Any] = {
    "anatomy": ANATOMY,
    "depth": DEPTH,
    "assertion": {"kind": "assertion", "findings": {finding: finding for finding in FINDINGS}},
    "multi_text": {"kind": "multi_text", "texts": {finding: [finding] for finding in FINDINGS}},
    "medslip": {
        "kind": "medslip", "findings": list(FINDINGS), "places": {"left": ["left", None], "right": ["right", None]},
        "width": 8, "layers": 1, "heads": 2, "dropout": 0.0,
    },
    "mae": {"kind": "mae", "patch": [4, 4, 4], "channels": 1, "width": 16, "depth": 1, "window": [0, 2000]},
    "mgca": {"kind": "mgca", "prototypes": 12, "freeze": 0.0},
}  # fmt: skip
KINDS = sorted(kind for kind in objectives if kind != "example_margin")
TOGETHER = ["convirt", "concept", "gloria", ANATOMY, DEPTH]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans") / "ct")


@pytest.fixture
def recipe3d(tmp_path: Path, scans: Path) -> Path:
    return write_recipe(tmp_path, scans)


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_takes_two_steps(kind: str, recipe3d: Path, tmp_path: Path) -> None:
    components, engine = built(recipe3d, tmp_path / "run", [LINES.get(kind, {"kind": kind})])
    before = {name: value.detach().clone() for name, value in engine.module.named_parameters()}
    for _, batch in zip(range(2), components.loader, strict=False):
        assert batch.image.shape == (8, 1, 24, 20, 24)
        losses = accumulate_gradients(engine, batch, 0.0, 1, False)
        assert torch.isfinite(losses.total) and losses.total > 0, f"{kind} reads nothing of these volumes"
        engine.step(1.0)
    moved = {
        name.split(".")[1] for name, value in engine.module.named_parameters() if not torch.equal(value, before[name])
    }
    assert "image_tower" in moved and ("text_tower" in moved) is (kind not in ("mae", "medslip"))


def test_a_single_window_is_applied_once(recipe3d: Path, tmp_path: Path) -> None:
    """With no cell blanked the masked patches are the patches, whatever the number of windows."""
    lines = [LINES["mae"], {"kind": "concept", "align": "none"}]
    components, engine = built(recipe3d, tmp_path, lines, "volume.windows=[lung]", "model.mask_share=0")
    output = engine.embed(next(iter(components.loader)))
    assert output.masked_patches is not None and output.patches is not None
    torch.testing.assert_close(output.masked_patches, output.patches)


def test_cached_embeddings_have_the_whole_batchs_gradients(recipe3d: Path, tmp_path: Path) -> None:
    found = []
    for chunks in (1, 4):
        components, engine = built(recipe3d, tmp_path / str(chunks), TOGETHER)
        losses = accumulate_gradients(engine, next(iter(components.loader)), 0.5, chunks, chunks > 1)
        found.append((losses.total.detach(), grads(engine)))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert_same(found[1][1], found[0][1], 1e-5)


MIXED = (
    "volume={spacing: [48, 12, 12], size: [6, 32, 32], windows: [lung, bone], image: {size: 32, channels: 1}}",
    "model.image={kind: slices, tower: {kind: conv, width: 8, blocks: [1, 1, 1], norm: group}, chunk: 4}",
)


def test_images_and_volumes_train_one_model(recipe3d: Path, tmp_path: Path, scans: Path, shards: Path) -> None:
    sources = f"data.train=[{{path: {scans}}}, {{path: {shards}}}]"
    lines = ["clip", {"kind": "concept", "align": "none", "of": "phrases", "loss": "softmax"}, ANATOMY, DEPTH]
    components, engine = built(recipe3d, tmp_path / "run", lines, sources, *MIXED)
    seen = set()
    for _, batch in zip(range(6), components.loader, strict=False):
        output = engine.embed(batch)
        assert output.grid is not None and output.patches is not None
        assert output.grid.shape[0] == batch.image.shape[2] and output.grid.cells == output.patches.shape[1]
        losses = accumulate_gradients(engine, batch, 0.0, 1, False)
        assert torch.isfinite(losses.total)
        missing = [
            name for name, value in engine.module.named_parameters() if value.requires_grad and value.grad is None
        ]
        assert not missing, "data parallelism would stop"
        engine.step(1.0)
        seen.add(batch.image.shape[2])
    assert seen == {1, 6}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("model.image={kind: patch_conv, patch: [2, 4, 4]}",), "the tower 'patch_conv' takes volumes alone"),
        (("objectives=[{kind: mae, patch: [1, 8, 8], window: [0, 2000], channels: 1}]",), "images or of volumes, not of both"),
        (("volume.image=null",), "synthetic holds images, and the recipe's model reads volumes"),
    ],
)  # fmt: skip
def test_what_cannot_read_both_is_refused(
    changed: tuple[str, ...], message: str, recipe3d: Path, tmp_path: Path, scans: Path, shards: Path
) -> None:
    sources = f"data.train=[{{path: {scans}}}, {{path: {shards}}}]"
    with pytest.raises(ConfigError, match=message):
        built(recipe3d, tmp_path / "run", ["clip"], sources, *MIXED, *changed)


def gradients_of_a_rank(recipe: Path, out: Path) -> None:
    from vlp.core import distributed

    components, engine = built(recipe, out / "run", TOGETHER)
    losses = accumulate_gradients(engine, next(iter(components.loader)), 0.5, 1, False)
    torch.save((losses.total.detach(), grads(engine)), out / f"{distributed.rank()}.pt")


@pytest.mark.dist
def test_two_processes_are_one(recipe3d: Path, tmp_path: Path) -> None:
    run_ranks(gradients_of_a_rank, 2, tmp_path / "two", recipe3d, tmp_path / "two")
    gradients_of_a_rank(recipe3d, tmp_path)
    loss, expected = torch.load(tmp_path / "0.pt")
    ranks = [torch.load(tmp_path / "two" / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, loss)
    for rank in ranks:
        assert_same(rank[1], expected, 1e-5)


@pytest.mark.dist
def test_a_resumed_run_is_the_run(recipe3d: Path, tmp_path: Path) -> None:
    given = [recipe3d, "optim.schedule=constant", "optim.warmup_samples=0"]
    for name, samples in (("straight", 32), ("halted", 16)):
        done = run(*given, f"name={name}", f"train.samples={samples}")
        assert done.returncode == 0, done.stderr
    resumed = run(*given, "name=halted", "train.samples=32", "--resume", "data.workers=1")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_checkpoint(*(tmp_path / "runs" / name / "last" for name in ("halted", "straight")))
