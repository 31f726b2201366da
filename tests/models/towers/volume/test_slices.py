"""Towers of images over slices: one slice is the image, weights are the 2-D ones, depth is in millimetres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.tiny import BERT, wordpieces
from tests.models.towers.volume.planted import build, noise, spec
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.volume.spec import VolumeSpec
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.models.lora import merge_lora
from vlp.models.towers.base import build_image_tower
from vlp.models.towers.volume.slices import places

VIT: dict[str, Any] = {
    "kind": "timm",
    "name": "vit_tiny_patch16_224",
    "options": {"depth": 2, "embed_dim": 24, "patch_size": 8},
}
RESNET: dict[str, Any] = {"kind": "timm", "name": "resnet10t"}
SIDE = 32


def flat_tower(tree: dict[str, Any], state: dict[str, Tensor], channels: int = 3) -> Any:
    tower = build_image_tower(tree, ImageSpec(size=SIDE, channels=channels)).eval()  # type: ignore[arg-type]
    tower.load_state_dict(state)
    return tower


@pytest.mark.parametrize("pool", ["attention", "mean"])
@pytest.mark.parametrize(
    "tree", [VIT, RESNET, {"kind": "conv", "width": 8, "groups": 4}], ids=lambda tree: tree["kind"]
)
def test_a_volume_of_one_slice_is_the_image(tree: dict[str, Any], pool: str) -> None:
    tower = build({"kind": "slices", "tower": tree, "pool": pool, "queries": 1}, 1, SIDE, SIDE, channels=3)
    flat = flat_tower(tree, tower.tower.state_dict())
    picture = noise(2, 3, SIDE, SIDE)
    with torch.no_grad():
        ours, theirs = tower(picture.unsqueeze(2), patches=True), flat(picture, patches=True)
    torch.testing.assert_close(ours.pooled, theirs.pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.patch_tokens, theirs.patch_tokens, rtol=0, atol=1e-6)
    if theirs.attention is not None:
        torch.testing.assert_close(ours.attention, theirs.attention, rtol=0, atol=1e-6)
    flat_grid = flat.grid
    assert tower.grid.shape == (1, *flat_grid.shape) and tower.grid.offset == (0.5, *flat_grid.offset)


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_among_volumes_is_the_image(turned: bool) -> None:
    """Whatever a tower of seven slices has learnt of depth, a picture has none; and it is not turned."""
    tower = build({"kind": "slices", "tower": VIT, "queries": 1, "turned": turned}, 7, SIDE, SIDE, channels=3)
    for place in (tower.local, tower.pool.place):
        torch.nn.init.normal_(place.project.weight)
        torch.nn.init.normal_(place.project.bias)
    flat = flat_tower(VIT, tower.tower.state_dict())
    picture = noise(2, 3, SIDE, SIDE)
    with torch.no_grad():
        ours, theirs = tower(picture.unsqueeze(2), patches=True), flat(picture, patches=True)
    torch.testing.assert_close(ours.pooled, theirs.pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.patch_tokens, theirs.patch_tokens, rtol=0, atol=1e-6)
    grid = tower.grid_of((1, SIDE, SIDE))
    assert grid.shape == (1, *flat.grid.shape) and grid.offset == (0.5, *flat.grid.offset)
    assert tower.grid_of((7, SIDE, SIDE)) == tower.grid and tower.grid.shape[0] == 7


def test_chunks_change_nothing_and_slices_keep_their_order() -> None:
    towers = [build({"kind": "slices", "tower": VIT, "chunk": chunk}, 7, SIDE, SIDE, channels=3) for chunk in (2, 16)]
    volume = noise(2, 3, 7, SIDE, SIDE)
    with torch.no_grad():
        first, second = (tower(volume, patches=True) for tower in towers)
        flat = flat_tower(VIT, towers[0].tower.state_dict())(volume[:, :, 4], patches=True)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    cells = first.patch_tokens.view(2, *towers[0].grid.shape, -1)
    torch.testing.assert_close(cells[:, 4].flatten(1, 2), flat.patch_tokens, rtol=1e-5, atol=1e-6)


def test_attention_pooling_is_a_softmax_over_slices() -> None:
    tower = build({"kind": "slices", "tower": VIT, "queries": 3}, 5, SIDE, SIDE, channels=3)
    volume = noise(1, 3, 5, SIDE, SIDE)
    with torch.no_grad():
        slices = torch.stack([tower.tower(volume[:, :, depth]).pooled for depth in range(5)], 1)
        keys = tower.pool.key(torch.nn.functional.layer_norm(slices, (24,)))
        expected = []
        for query in tower.pool.query:
            weights = torch.softmax((keys * query).sum(-1) / 24**0.5, 1)
            expected.append((weights.unsqueeze(-1) * slices).sum(1))
        torch.testing.assert_close(tower(volume).pooled, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_the_place_of_a_slice_is_in_millimetres() -> None:
    def at(spacing: float, depth: int) -> Tensor:
        return places(VolumeSpec(spacing=(spacing, 1.0, 1.0), size=(depth, 8, 8), windows=("lung",)))

    fine, coarse = at(2.0, 12), at(4.0, 6)  # both 24 mm: a coarse slice's centre lies between two fine ones
    assert torch.allclose(at(2.0, 11)[::2], at(4.0, 6), atol=1e-5)  # centres from -10 to 10 mm
    assert not torch.allclose(fine[:6], coarse, atol=1e-2)


def test_a_slice_knows_its_place_once_that_is_learnt() -> None:
    tower = build({"kind": "slices", "tower": VIT}, 4, SIDE, SIDE, channels=3)
    volume = noise(1, 3, 1, SIDE, SIDE).expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        same = tower(volume, patches=True).patch_tokens.view(4, -1)
        tower.local.project.weight.normal_()
        other = tower(volume, patches=True).patch_tokens.view(4, -1)
    assert torch.allclose(same[0], same[3], atol=1e-5) and not torch.allclose(other[0], other[3], atol=0.1)


def test_neighbours_are_the_channels() -> None:
    tree = {"kind": "slices", "tower": VIT, "channels": "neighbours"}
    tower, volume = build(tree, 4, SIDE, SIDE), noise(1, 1, 4, SIDE, SIDE)
    flat = flat_tower(VIT, tower.tower.state_dict())
    with torch.no_grad():
        cells = tower(volume, patches=True).patch_tokens.view(1, *tower.grid.shape, -1)
        for depth, planes in ((0, (0, 0, 1)), (2, (1, 2, 3)), (3, (2, 3, 3))):
            expected = flat(volume[:, 0, list(planes)], patches=True).patch_tokens
            torch.testing.assert_close(cells[:, depth].flatten(1, 2), expected, rtol=1e-5, atol=1e-6)


def test_turned_slices_are_seen_as_they_are_shown() -> None:
    tower = build({"kind": "slices", "tower": VIT, "turned": True, "queries": 1}, 1, SIDE, SIDE, channels=3)
    flat, picture = flat_tower(VIT, tower.tower.state_dict()), noise(1, 3, SIDE, SIDE)
    with torch.no_grad():
        shown = flat(picture.rot90(2, (2, 3)), patches=True)
        found = tower(picture.unsqueeze(2), patches=True)
    torch.testing.assert_close(found.pooled, shown.pooled)
    cells = shown.patch_tokens.view(1, 4, 4, -1).rot90(2, (1, 2)).flatten(1, 2)
    torch.testing.assert_close(found.patch_tokens, cells)
    torch.testing.assert_close(found.attention, shown.attention.view(1, 4, 4).rot90(2, (1, 2)).flatten(1))


def test_an_adapter_of_the_tower_of_images_is_added_and_merged() -> None:
    given = {**VIT, "adapter": {"r": 2, "targets": ["qkv"]}}
    config = ModelConfig(image={"kind": "slices", "tower": given}, text=BERT, dim=16)
    model = build_model(config, spec(3, SIDE, SIDE, channels=3), wordpieces())
    tower: Any = model.image_tower
    trained = [name for name, value in tower.tower.named_parameters() if value.requires_grad]
    assert trained and all("lora_" in name for name in trained) and tower.pool.query.requires_grad
    with torch.no_grad():
        for name, value in tower.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    merged: Any = merge_lora(model).image_tower
    assert not any("lora_" in name for name in merged.state_dict()) and merged.to_config()["tower"]["adapter"] is None
    volume = noise(1, 3, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(volume).pooled, tower.eval()(volume).pooled, rtol=1e-4, atol=1e-5)


def test_the_weights_of_the_tower_of_images_are_loaded_with_their_own_report(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_image_tower(VIT, ImageSpec(size=64))
    save_file(source.model.state_dict(), tmp_path / "vit.safetensors")
    from vlp.models.weights.load import load_initial

    given = {**VIT, "pretrained": str(tmp_path / "vit.safetensors"), "freeze_layers": 1}
    config = ModelConfig(image={"kind": "slices", "tower": given}, text=BERT, dim=16)
    model = build_model(config, spec(3, SIDE, SIDE, channels=3), wordpieces())
    tower: Any = model.image_tower
    torch.testing.assert_close(tower.tower.model.blocks[1].mlp.fc1.weight, source.model.blocks[1].mlp.fc1.weight)
    assert not tower.tower.model.blocks[0].mlp.fc1.weight.requires_grad and tower.pool.query.requires_grad
    assert tower.to_config()["tower"]["pretrained"] is None
    reports = load_initial(model)
    assert list(reports) == ["image.tower"] and not reports["image.tower"].missing
    assert "pos_embed" in reports["image.tower"].resized

    other = {**given, "options": {**VIT["options"], "depth": 3}}
    with pytest.raises(ConfigError, match=r"model\.image\.tower\.pretrained: .*blocks\.2\."):
        build_model(ModelConfig(image={"kind": "slices", "tower": other}, text=BERT, dim=16), model.spec, wordpieces())


@pytest.mark.parametrize(
    ("tree", "size", "channels", "message"),
    [
        ({"tower": VIT}, (4, 24, 32), 3, r"take squares, volume.size is \[4, 24, 32\]; set it to \[4, 32, 32\]"),
        ({"tower": VIT}, (4, 32, 32), 4, r"model.image.tower: the network takes 3 channels, volume.windows makes 4"),
        (
            {"tower": {"kind": "slices", "tower": VIT}},
            (4, 32, 32),
            3,
            r"model.image.tower.kind: 'slices' is a tower of volumes",
        ),
        ({"tower": VIT, "channels": "neighbours"}, (4, 32, 32), 3, r"neighbours are of one window"),
        ({"tower": {"kind": "conv"}, "chunk": 0}, (4, 32, 32), 3, r"chunk 0; both are at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(tree: dict[str, Any], size: tuple[int, ...], channels: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"kind": "slices", **tree}, *size, channels=channels)
