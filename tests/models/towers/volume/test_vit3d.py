"""3-D vision transformers from 2-D weights and from 3-D ones: patches, positions, and the features of a single plane."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.models.towers.test_pretrained import shake
from tests.models.towers.volume.planted import build, noise
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import build_image_tower
from vlp.models.weights.inflation import inflate
from vlp.models.weights.load import load_tower
from vlp.models.weights.positions import inflate_positions

TINY = {"depth": 2, "embed_dim": 24}


def flat_vit(size: int, patch: int = 8, seed: int = 1, **options: Any) -> Any:
    torch.manual_seed(seed)
    tree = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {**TINY, "patch_size": patch, **options}}
    tower = build_image_tower(tree, ImageSpec(size=size))
    torch.manual_seed(seed)
    for value in tower.model.state_dict().values():
        value.add_(torch.randn_like(value) * 0.05)
    return tower.eval()


def vit3d(*size: int, channels: int = 1, **config: Any) -> Any:
    return build({"kind": "vit3d", "name": "vit_tiny_patch16_224", "options": TINY, **config}, *size, channels=channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_single_plane_of_patches_on_what_is_constant_along_depth_is_the_2d_model(channels: int) -> None:
    flat, tower = flat_vit(32), vit3d(4, 32, 32, channels=channels, patch=[4, 8, 8])
    report = load_tower(tower, flat.model.state_dict(), "timm")
    assert not report.missing and not report.unexpected and "patch_embed.proj.weight" in report.resized
    grey = noise(2, 1, 32, 32)
    with torch.no_grad():
        expected = flat(grey.expand(-1, 3, -1, -1), patches=True)
        found = tower(grey.unsqueeze(2).expand(-1, channels, 4, -1, -1), patches=True)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.patch_tokens, expected.patch_tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.attention, expected.attention, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "deit3_small_patch16_224"]
)
def test_registers_layer_scales_and_attention_pooling_come_with_the_name(name: str) -> None:
    options, patch = {**TINY, "num_heads": 3}, 14 if "14" in name else 16
    torch.manual_seed(1)
    flat = build_image_tower({"kind": "timm", "name": name, "options": options}, ImageSpec(size=2 * patch)).eval()
    for value in flat.model.state_dict().values():
        value.add_(torch.randn_like(value) * 0.05)
    tower = vit3d(4, 2 * patch, 2 * patch, name=name, options=options, patch=[4, patch, patch])
    report = load_tower(tower, dict(flat.model.state_dict()), "timm")
    assert not report.missing and not report.unexpected
    grey = noise(1, 1, 2 * patch, 2 * patch)
    with torch.no_grad():
        expected = flat(grey.expand(-1, 3, -1, -1), patches=True)
        found = tower(grey.unsqueeze(2).expand(-1, -1, 4, -1, -1), patches=True)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.patch_tokens, expected.patch_tokens, rtol=0, atol=1e-5)


def test_a_grey_patch_kernel_is_the_sum_of_the_colours_repeated_along_depth() -> None:
    kernel = noise(5, 3, 4, 4)
    inflated = inflate(kernel, torch.Size((5, 1, 6, 4, 4)), "mean", True)
    assert inflated is not None
    for depth in range(6):
        torch.testing.assert_close(inflated[:, 0, depth], kernel.sum(1) / 6)
    grey = noise(1, 1, 8, 8)
    three = F.conv2d(grey.expand(-1, 3, -1, -1), kernel, stride=4)
    one = F.conv3d(grey.unsqueeze(2).expand(-1, -1, 6, -1, -1), inflated, stride=(6, 4, 4))[:, :, 0]
    torch.testing.assert_close(one, three, rtol=0, atol=2e-5)


def test_positions_of_a_plane_are_interpolated_and_each_plane_differs() -> None:
    flat, tower = flat_vit(32), vit3d(12, 48, 64, patch=[4, 8, 8])
    load_tower(tower, flat.model.state_dict(), "timm")
    table = tower.model.pos_embed.detach()[0]
    old = flat.model.pos_embed.detach()[0]
    torch.testing.assert_close(table[:1], old[:1])
    planes = table[1:].view(3, 6, 8, 24)
    square = old[1:].T.reshape(1, 24, 4, 4)
    expected = F.interpolate(square, size=(6, 8), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(planes.mean(0), expected.permute(1, 2, 0), rtol=1e-4, atol=1e-5)
    depth = planes - planes.mean(0)
    torch.testing.assert_close(depth, depth[:, :1, :1].expand_as(depth), rtol=1e-3, atol=1e-4)
    assert depth.square().mean().sqrt().item() == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-3)
    assert inflate_positions(old[1:], (1, 4, 4)).equal(old[1:])


def test_3d_positions_are_trilinear_between_the_centres_of_cells() -> None:
    source, tower = vit3d(8, 24, 24, patch=[4, 8, 8]), vit3d(16, 24, 48, patch=[4, 8, 8], pretrained_grid=[2, 3, 3])
    d, h, w = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(3), indexing="ij")
    shake(source)
    file: dict[str, Tensor] = dict(source.model.state_dict())
    file["pos_embed"] = torch.cat([torch.full((1, 1), -7.0), (100.0 * d + 10 * h + w).view(-1, 1)]).expand(1, 19, 24)
    report = load_tower(tower, file, "3-D")
    assert not report.missing and report.resized.keys() == {"pos_embed"}
    table = tower.model.pos_embed.detach()[0, :, 5]
    cells = table[1:].view(4, 3, 6)
    assert table[0] == -7 and cells.sum().item() == pytest.approx(4392)
    assert cells[0, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.25, 1.75, 2.0])
    assert cells[1, 1].tolist() == pytest.approx([35.0, 35.25, 35.75, 36.25, 36.75, 37.0])
    assert cells[3, 2].tolist() == pytest.approx([120.0, 120.25, 120.75, 121.25, 121.75, 122.0])


def test_3d_weights_of_an_unknown_grid_leave_the_positions_missing() -> None:
    source, tower = vit3d(8, 24, 24, patch=[4, 8, 8]), vit3d(16, 24, 48, patch=[4, 8, 8])
    report = load_tower(tower, dict(source.model.state_dict()), "3-D")
    assert report.missing == ["pos_embed"]
    same = vit3d(8, 24, 24, patch=[4, 8, 8])
    assert not load_tower(same, dict(source.model.state_dict()), "3-D").missing
    assert same.model.pos_embed.equal(source.model.pos_embed)


def test_what_is_no_plain_vision_transformer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.image.name: 'resnet10t' is no plain vision transformer"):
        build({"kind": "vit3d", "name": "resnet10t"}, 16, 32, 32)
    with pytest.raises(
        ConfigError, match=r"volume.size \[12, 32, 32\] is no multiple of model.image.patch \[8, 16, 16\]"
    ):
        build({"kind": "vit3d"}, 12, 32, 32)
