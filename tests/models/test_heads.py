"""Heads against their definitions, word pieces against a loop, batch normalisation against torch's."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.ranks import run_ranks
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.models.heads import BatchNorm, HeadConfig, build_head
from vlp.needs.words import sum_pieces


def kinds(head: nn.Module) -> list[str]:
    return [type(one).__name__ for one in head.children()] or [type(head).__name__]


def test_the_published_heads() -> None:
    clip = build_head(HeadConfig(), 12, 5, "h")
    assert isinstance(clip, nn.Linear) and clip.bias is None and clip.weight.shape == (5, 12)
    convirt = build_head(HeadConfig(kind="mlp"), 12, 5, "h")
    assert kinds(convirt) == ["Linear", "ReLU", "Linear"] and convirt[0].weight.shape == (12, 12)  # type: ignore[index]
    assert convirt[2].bias is not None  # type: ignore[index]
    biomedclip = build_head(HeadConfig(kind="mlp", activation="gelu", bias=False, hidden=640), 768, 512, "h")
    assert sum(one.numel() for one in biomedclip.parameters()) == 768 * 640 + 640 * 512
    mgca = build_head(HeadConfig(kind="bn_mlp", hidden=20), 12, 5, "h")
    assert kinds(mgca) == ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm"]
    assert mgca[4].weight is None  # type: ignore[index]
    assert mgca(torch.randn(3, 7, 12)).shape == (3, 7, 5)
    with pytest.raises(ConfigError, match=r"h\.kind is none, but the tower's width is 12 and model\.dim is 5"):
        build_head(HeadConfig(kind="none"), 12, 5, "h")


def test_word_pieces_are_summed() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    words = torch.tensor([[-1, 0, 0, 1], [0, 1, -1, -1]])
    found = sum_pieces(states, words, 3)
    expected = torch.zeros(2, 3, 3)
    for row in range(2):
        for place in range(4):
            if words[row, place] >= 0:
                expected[row, words[row, place]] += states[row, place]
    assert torch.equal(found, expected)
    assert torch.equal(sum_pieces(states[..., 0], words, 3), expected[..., 0])


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_is_torchs(affine: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(6, affine=affine), nn.BatchNorm1d(6, affine=affine)
    for _ in range(3):
        rows = torch.randn(10, 6) * 3 + 1
        first, second = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        one, two = ours(first.view(5, 2, 6)).view(10, 6), theirs(second)
        assert torch.allclose(one, two, atol=1e-5)
        weights = torch.randn(10, 6)
        (one * weights).sum().backward()
        (two * weights).sum().backward()
        assert first.grad is not None and second.grad is not None
        assert torch.allclose(first.grad, second.grad, atol=1e-5)
    assert torch.allclose(ours.running_mean, theirs.running_mean) and torch.allclose(
        ours.running_var, theirs.running_var
    )
    assert torch.allclose(ours.eval()(rows), theirs.eval()(rows), atol=1e-6)


def normalise(out: Path) -> None:
    """Leave the gradient and the variance of 8 rows, of which each process has its share."""
    torch.manual_seed(0)
    rows, weights = torch.randn(8, 5), torch.randn(8, 5)
    norm = BatchNorm(5)
    share = slice(4 * distributed.rank(), 4 * distributed.rank() + 4) if distributed.world() > 1 else slice(None)
    mine = rows[share].clone().requires_grad_()
    (norm(mine) * weights[share]).sum().backward()
    assert mine.grad is not None
    grads = distributed.gather(mine.grad)
    if distributed.is_main():
        torch.save([grads, norm.running_var], out)


@pytest.mark.dist
def test_two_processes_normalise_as_one(tmp_path: Path) -> None:
    normalise(tmp_path / "one.pt")
    run_ranks(normalise, 2, tmp_path, tmp_path / "two.pt")
    results = [torch.load(tmp_path / f"{name}.pt") for name in ("one", "two")]
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, atol=1e-6)
