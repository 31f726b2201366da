"""Grad-CAM, gScoreCAM and M2IB against their formulas written out, and the place of a layer's cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vlp_eval.maps import saliency


class Bright(torch.nn.Module):
    """A tower whose first channel follows brightness, pooled to an embedding: text (1, 0) asks for what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = torch.nn.Conv2d(3, 2, 8, stride=8, bias=False)
        with torch.no_grad():
            self.smooth.weight[0] = 1 / 192
            self.smooth.weight[1] = 0.2 / 192

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        cells = self.smooth(pixels)
        bright = torch.stack([cells[:, 0].relu() ** 2, 0.1 + 0 * cells[:, 1]], 1)
        return bright.mean((2, 3))


@pytest.mark.parametrize("method", ["gradcam", "gscorecam", "m2ib"])
def test_saliency_rises_on_the_bright_square(method: saliency.Method) -> None:
    torch.manual_seed(0)
    module = Bright().eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 40:48, 16:24] = 1
    layer = saliency.find_layer(tower, image)
    assert (layer.height, layer.width, layer.name) == (8, 8, "smooth")
    cells = saliency.cells(tower, image, np.array([1.0, 0.0], np.float32), method, layer)
    assert np.unravel_index(int(cells.argmax()), cells.shape) == (5, 2)


class Mixed(torch.nn.Module):
    """A tower of two layers whose maps can be written down: a strided convolution and a linear mix of channel means."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cells = torch.nn.Conv2d(3, 5, 4, stride=4)
        self.mix = torch.nn.Linear(5, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(self.cells(pixels).tanh().mean((2, 3)))
        return mixed


@pytest.fixture
def mixed() -> tuple[saliency.Tower, torch.Tensor, torch.Tensor, saliency.Layer]:
    module = Mixed().eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    target = torch.nn.functional.normalize(torch.tensor([1.0, -0.5, 0.3, 0.8]), dim=0)
    layer = saliency.find_layer(tower, image)
    assert layer.name == "cells"
    return tower, image, target, layer


def cosine(module: Mixed, activations: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        embedding = module.mix(activations.tanh().mean((2, 3)))[0]
    return float(embedding @ target / embedding.norm())


def test_grad_cam_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """ReLU(sum over channels of mean gradient x activation), the gradient by differences of the score."""
    tower, image, target, layer = mixed
    module = tower.module.double()
    activations = module.cells(image.double()).detach()
    gradient = np.zeros(activations.shape[1:])
    for at in np.ndindex(*gradient.shape):
        step = torch.zeros_like(activations)
        step[(0, *at)] = 1e-5
        up, down = (cosine(module, activations + sign * step, target.double()) for sign in (1, -1))
        gradient[at] = (up - down) / 2e-5
    expected = np.maximum(0, (gradient.mean((1, 2), keepdims=True) * activations[0].numpy()).sum(0))
    found = saliency.grad_cam(tower, image.double(), target, layer)
    assert expected.max() > 0 and np.abs(found - expected).max() < 1e-5 * max(1, expected.max())


def test_g_score_cam_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """Each of the best channels masks the image; softmax of 100 x the cosines; ReLU of the weighted activations."""
    tower, image, target, layer = mixed
    activations = tower.module.cells(image).detach().requires_grad_(True)
    embedding = tower.module.mix(activations.tanh().mean((2, 3)))[0]
    (gradient,) = torch.autograd.grad(embedding @ target / embedding.norm(), activations)
    best = gradient[0].mean((1, 2)).argsort(descending=True)[:3]
    scores = []
    for channel in best:
        one = activations[0, channel].detach()
        mask = ((one - one.min()) / (one.max() - one.min()))[None, None]
        spread = torch.nn.Upsample(size=(16, 16), mode="bilinear", align_corners=False)(mask)
        embedding = tower.encode(image * spread)[0].detach()
        scores.append(float(embedding @ target / embedding.norm()))
    weights = np.exp(100 * (np.array(scores) - max(scores)))
    weights /= weights.sum()
    kept = activations[0, best].detach().numpy()
    expected = np.maximum(0, (weights[:, None, None] * kept).sum(0))
    found = saliency.g_score_cam(tower, image, target, layer, top=3)
    assert np.abs(found - expected).max() < 1e-4 * max(1, expected.max())


def test_m2ib_is_its_formula(mixed: tuple[Any, ...]) -> None:
    """t = l z + (1 - l) e, l = sigmoid(a), a from 5; beta mean KL(N(l z, (1 - l)^2) | N(0, 1)) - cosine; Adam, rate 1."""
    from torch.distributions import Normal, kl_divergence

    tower, image, target, layer = mixed
    z = tower.module.cells(image).detach()
    noise = torch.Generator().manual_seed(0)
    a = torch.full_like(z, 5.0, requires_grad=True)
    adam = torch.optim.Adam([a], lr=1.0)

    def cost() -> torch.Tensor:
        gate = torch.sigmoid(a)
        return kl_divergence(Normal(gate * z, 1 - gate), Normal(torch.zeros_like(z), torch.ones_like(z)))

    for _ in range(4):
        adam.zero_grad()
        gate = torch.sigmoid(a)
        bottled = gate * z + (1 - gate) * torch.randn((10, *z.shape[1:]), generator=noise)
        embedding = tower.module.mix(bottled.tanh().mean((2, 3)))
        score = torch.nn.functional.cosine_similarity(embedding, target[None]).mean()
        (0.1 * cost().mean() - score).backward()
        adam.step()
    field = cost().detach()[0].sum(0).numpy()
    expected = (field - field.min()) / (field.max() - field.min())
    found = saliency.m2ib(tower, image, target, layer, steps=4)
    assert np.abs(found - expected).max() < 1e-3


class ChannelsLast(Bright):
    """The same tower, its cells in timm's other order, as those of Swin are."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        cells = self.last(self.smooth(pixels).permute(0, 2, 3, 1))
        return torch.stack([cells[..., 0].relu() ** 2, 0.1 + 0 * cells[..., 1]], 1).mean((2, 3))


@pytest.mark.parametrize("method", ["gradcam", "gscorecam", "m2ib"])
def test_a_layer_with_its_channels_last_gives_the_same_map(method: saliency.Method) -> None:
    towers = [saliency.Tower(one, one, lambda pixels: pixels) for one in (Bright().eval(), ChannelsLast().eval())]
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 40:48, 16:24] = 1
    layers = [saliency.find_layer(one, image) for one in towers]
    assert (layers[1].name, layers[1].height, layers[1].width, layers[1].channels_last) == ("last", 8, 8, True)
    text = np.array([1.0, 0.0], np.float32)
    maps = [saliency.cells(tower, image, text, method, layer) for tower, layer in zip(towers, layers, strict=True)]
    assert maps[1].shape == (8, 8) and np.unravel_index(int(maps[1].argmax()), (8, 8)) == (5, 2)
    if method != "m2ib":  # whose noise falls on other places
        assert np.abs(maps[0] - maps[1]).max() < 1e-6


def test_the_layers_of_a_swin_are_maps_of_its_cells() -> None:
    """Its maps are [n, h, w, C], one of them as wide as it has channels; what it computes in windows is no map."""
    import timm

    options = {"window_size": 4, "depths": (2, 2), "num_heads": (2, 2), "embed_dim": 16, "patch_size": 4}
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64, **options).eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.rand(1, 3, 64, 64)
    assert (saliency.find_layer(tower, image).height, saliency.find_layer(tower, image).width) == (8, 8)
    for name, edge, width in (("layers.0", 16, 16), ("layers.1", 8, 32), ("norm", 8, 32), ("patch_embed.proj", 16, 16)):
        layer = saliency.find_layer(tower, image, name)
        assert (layer.height, layer.width) == (edge, edge)
        kept: list[torch.Tensor] = []
        handle = layer.module.register_forward_hook(lambda *one, kept=kept: kept.append(one[2]))
        module(image)
        handle.remove()
        expected = kept[0] if name.endswith("proj") else kept[0].permute(0, 3, 1, 2)
        assert layer.cells(kept[0]).shape == (1, width, edge, edge) and torch.equal(layer.cells(kept[0]), expected)
    with pytest.raises(ValueError, match=r"layer 'layers\.0\.blocks\.0\.attn'"):
        saliency.find_layer(tower, image, "layers.0.blocks.0.attn")


def test_a_layer_of_any_tower_lies_where_its_strides_put_it() -> None:
    """A ResNet's cells are not centred on equal tiles: a map made of one of its layers has the tower's own offset."""
    import timm

    from vlp_eval.maps.phrase_maps import grid_of_layer

    module = timm.create_model("resnet18", num_classes=0).eval()
    tower = saliency.Tower(module, module, lambda pixels: pixels)
    image = torch.rand(1, 3, 128, 128)
    grid = grid_of_layer(tower, image, saliency.find_layer(tower, image, "layer2"))
    # 7x7 stride 2 pad 3, 3x3 stride 2 pad 1, 3x3 stride 2 pad 1: each puts its first window's centre on the first input's
    assert (grid.shape[0], grid.stride, grid.offset) == (16, (8.0, 8.0), (0.5, 0.5))
