"""Where a cell looks, measured with planted squares, against where the tower says that it looks."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vlp.models.build  # noqa: F401  (registers the towers)
from vlp.batch import Grid
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import ImageTower, build_image_tower
from vlp.models.towers.patch_grid import trace_grid

HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def planted(tower: ImageTower, size: int, squares: int = 16) -> np.ndarray:
    """Return how far, in cells (y, x), the centre of the response lies from the square that caused it, on average."""
    rng = np.random.default_rng(0)
    grid = tower.grid
    background = torch.randn(1, tower.channels, size, size, generator=torch.Generator().manual_seed(0)) * 0.1
    side = max(4, int(grid.stride[0]) // 2)
    low, high = int(0.3 * size), int(0.7 * size) - side
    corners = rng.integers(low, high, (squares, 2))
    images = background.repeat(squares + 1, 1, 1, 1)
    for index, (y, x) in enumerate(corners):
        images[index, :, y : y + side, x : x + side] += 3.0
    with torch.inference_mode():
        cells = torch.cat([tower(one, patches=True).patch_tokens for one in images.split(8)])
    response = (cells[:-1] - cells[-1:]).square().sum(-1).view(squares, *grid.shape).numpy()
    response = np.where(response > 0.1 * response.max((1, 2), keepdims=True), response, 0)
    rows, columns = np.mgrid[: grid.shape[0], : grid.shape[1]]
    total = response.sum((1, 2))
    seen = np.stack([(response * rows).sum((1, 2)) / total, (response * columns).sum((1, 2)) / total], 1)
    where = np.array(grid.offset) + np.array(grid.stride) * seen
    return ((where - (corners + side / 2)) / np.array(grid.stride)).mean(0)


def settle(tower: ImageTower, size: int) -> None:
    """Make a random convolutional tower respond smoothly: positive spatial kernels, and statistics that fit them."""
    for module in tower.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
            module.weight.data.abs_()
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.fill_(1.0)
    tower.train()
    with torch.no_grad():
        tower(torch.randn(4, tower.channels, size, size, generator=torch.Generator().manual_seed(3)))
    tower.eval()


def hf(model_type: str, **options: Any) -> dict[str, Any]:
    return {"kind": "hf", "config": {"model_type": model_type, **options}}


def clip(**vision: Any) -> dict[str, Any]:
    return {"kind": "open_clip", "config": {"embed_dim": 16, "vision_cfg": {"head_width": 8, **vision}}}


def timm(name: str, **options: Any) -> dict[str, Any]:
    return {"kind": "timm", "name": name, **options}


TOWERS: dict[str, tuple[dict[str, Any], int, float]] = {
    "conv": ({"kind": "conv", "width": 8, "groups": 4}, 96, 8),
    "resnet18": (timm("resnet18"), 320, 32),
    "resnet18 stage 3": (timm("resnet18", stage=3), 256, 16),
    "resnet18d": (timm("resnet18d"), 320, 32),
    "tf_efficientnet_lite0": (timm("tf_efficientnet_lite0"), 320, 32),
    "efficientnet_lite0": (timm("efficientnet_lite0"), 320, 32),
    "convnext": (timm("convnext_atto"), 256, 32),
    "vit": (timm("vit_tiny_patch16_224", options={"depth": 3}), 160, 16),
    "open_clip vit": (clip(layers=2, width=32, patch_size=16), 160, 16),
    "open_clip resnet": (clip(layers=[1, 1, 1, 1], width=16), 256, 32),
    "hf vit": (hf("vit", patch_size=16, **HF), 160, 16),
    "hf dinov2": (hf("dinov2", patch_size=14, **HF), 154, 14),
    "hf resnet": (hf("resnet", hidden_sizes=[16, 32], depths=[1, 1], embedding_size=8, layer_type="basic"), 128, 8),
    "hf convnext": (hf("convnext", hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1]), 256, 32),
    "hf swin": (hf("swin", embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4), 128, 8),
}


@pytest.mark.parametrize("name", TOWERS)
def test_a_planted_square_is_seen_where_the_grid_says(name: str) -> None:
    tree, size, stride = TOWERS[name]
    torch.manual_seed(1)
    channels = 1 if name == "conv" else 3
    tower = build_image_tower(tree, ImageSpec(size=size, channels=channels)).eval()  # type: ignore[arg-type]
    assert tower.grid.stride == (stride, stride)
    assert tower.grid.shape == (size // stride, size // stride)
    settle(tower, size)
    shift = planted(tower, size)
    assert np.abs(shift).max() < (0.5 if "efficientnet" in name else 0.3), f"{name}: {shift} cells off, {tower.grid}"


def test_the_textbook_geometry_of_known_layers() -> None:
    def grid(*layers: torch.nn.Module, size: int = 64) -> Grid | None:
        stack = torch.nn.Sequential(*layers)

        def run() -> tuple[int, int]:
            result = stack(torch.zeros(1, 1, size, size))
            return result.shape[2], result.shape[3]

        return trace_grid(stack, run, (size, size))

    conv = torch.nn.Conv2d
    assert grid(conv(1, 1, 16, 16)) == Grid((4, 4), (16, 16), (8, 8))
    assert grid(conv(1, 1, 3, 2, 1)) == Grid((32, 32), (2, 2), (0.5, 0.5))
    assert grid(conv(1, 1, 4, 2, 1)) == Grid((32, 32), (2, 2), (1, 1))
    assert grid(conv(1, 1, 7, 2, 3), torch.nn.MaxPool2d(3, 2, 1)) == Grid((16, 16), (4, 4), (0.5, 0.5))
    assert grid(torch.nn.AvgPool2d(2), conv(1, 1, 1, 2)) == Grid((16, 16), (4, 4), (1, 1))
    assert grid(conv(1, 1, 3, 1, 0)) == Grid((62, 62), (1, 1), (1.5, 1.5))
