"""The small tower of patches: its cells, its regions, and that it learns to find a small thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.models.towers.volume.planted import build, noise, shift_of_cells, spec
from vlp.core.config import ConfigError
from vlp.models.towers.base import build_image_tower

SMALL = {"kind": "patch_conv", "hidden": 16, "width": 16, "local_width": 8}
SIZE = (12, 20, 16)


def test_a_planted_cube_is_seen_where_the_grid_says() -> None:
    tower = build(SMALL, *SIZE, channels=2)
    assert tower.grid.shape == (3, 5, 4) and tower.grid.stride == (4, 4, 4) and tower.grid.offset == (2, 2, 2)
    assert np.abs(shift_of_cells(tower, SIZE)).max() < 0.3


def test_anisotropic_patches() -> None:
    tower = build({**SMALL, "patch": [2, 4, 8]}, *SIZE)
    assert tower.grid.shape == (6, 5, 2) and tower.grid.stride == (2, 4, 8) and tower.grid.offset == (1, 2, 4)
    assert np.abs(shift_of_cells(tower, SIZE)).max() < 0.3


def test_a_patch_is_embedded_as_a_strided_convolution_would() -> None:
    tower = build({**SMALL, "patch": [2, 4, 4]}, *SIZE, channels=3)
    volume = noise(2, 3, *SIZE)
    kernel = tower.embed[0].weight.view(16, 3, 2, 4, 4)
    expected = F.conv3d(volume, kernel, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower.embed[0](tower._patches(volume)), expected, rtol=1e-4, atol=1e-5)


def test_local_features_see_their_own_patch_alone() -> None:
    tower, volume = build(SMALL, *SIZE), noise(1, 1, *SIZE)
    other = volume.clone()
    other[:, :, 4:8, 8:12, 12:16] += 1  # cell (1, 2, 3) of 3 x 5 x 4
    before, after = (tower(found, patches=True).patch_tokens for found in (volume, other))
    changed = (before != after).any(-1).nonzero()
    assert changed.tolist() == [[0, (1 * 5 + 2) * 4 + 3]]


def test_the_size_must_be_whole_patches() -> None:
    with pytest.raises(
        ConfigError,
        match=r"volume.size \[12, 22, 16\] is no multiple of model.image.patch \[4, 4, 4\]; .* \[12, 24, 16\]",
    ):
        build_image_tower(SMALL, spec(12, 22, 16))


def test_normalisation_by_layer_leaves_each_volume_alone() -> None:
    tower, volumes = build({**SMALL, "norm": "layer"}, *SIZE).train(), noise(3, 1, *SIZE)
    torch.testing.assert_close(tower(volumes).pooled[:1], tower(volumes[:1]).pooled, rtol=1e-4, atol=1e-5)


def test_it_learns_in_which_octant_a_bright_voxel_block_is() -> None:
    torch.manual_seed(0)
    tower = build_image_tower(SMALL, spec(*SIZE))
    head = torch.nn.Linear(tower.width, 8)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], 3e-3)
    rng = torch.Generator().manual_seed(1)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        octant = torch.randint(0, 8, (count,), generator=rng)
        volume = torch.randn(count, 1, *SIZE, generator=rng)
        for row, value in enumerate(octant.tolist()):
            z, y, x = 6 * (value >> 2) + 2, 10 * (value >> 1 & 1) + 3, 8 * (value & 1) + 2
            volume[row, :, z : z + 3, y : y + 3, x : x + 3] += 4
        return volume, octant

    for _ in range(50):
        volume, octant = draw(16)
        optimizer.zero_grad()
        F.cross_entropy(head(tower.train()(volume).pooled), octant).backward()
        optimizer.step()
    volume, octant = draw(64)
    with torch.no_grad():
        share = (head(tower.eval()(volume).pooled).argmax(1) == octant).float().mean()
    assert share > 0.9
