"""What every tower of volumes does alike: cells where the grid says, freezing, recomputation, rebuilding from a config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.tiny import BERT, REPORTS, wordpieces
from tests.models.towers.volume.planted import build, noise, settle, shift_of_cells, spec
from vlp.batch import Batch
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.models.towers.base import build_image_tower

VIT = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 3, "embed_dim": 24, "patch_size": 8}}
RESNET = {"kind": "timm", "name": "resnet10t", "stage": 1}
SWIN = {"embed_dim": 12, "window_size": (4, 4, 4), "depths": (2, 1, 1, 1)}
MONAI_VIT = {"patch_size": (4, 8, 8), "hidden_size": 24, "mlp_dim": 96, "num_layers": 3, "num_heads": 3}
TOWERS: dict[str, tuple[dict[str, Any], tuple[int, int, int], tuple[float, float, float]]] = {
    "patch_conv": ({"kind": "patch_conv", "hidden": 16, "width": 16, "local_width": 8}, (12, 20, 16), (4, 4, 4)),
    "inflated": ({"kind": "inflated", "stage": 1, "axes": "zxy"}, (16, 24, 40), (2, 4, 4)),
    "slices of a transformer": ({"kind": "slices", "tower": VIT, "chunk": 2}, (6, 32, 32), (1, 8, 8)),
    "slices of a CNN": (
        {"kind": "slices", "tower": RESNET, "pool": "mean", "chunk": 4, "turned": True},
        (8, 96, 96),
        (1, 4, 4),
    ),
    "vit3d": ({"kind": "vit3d", "patch": [4, 8, 8], "options": {"depth": 3, "embed_dim": 24}}, (12, 40, 32), (4, 8, 8)),
    "monai swin_unetr": ({"kind": "monai", "stage": 1, "options": SWIN}, (32, 32, 32), (4, 4, 4)),
    "monai vit": ({"kind": "monai", "name": "vit", "options": MONAI_VIT}, (12, 40, 32), (4, 8, 8)),
}
RECOMPUTING = [name for name in TOWERS if name != "patch_conv"]


@pytest.mark.parametrize("name", TOWERS)
def test_a_planted_cube_is_seen_where_the_grid_says(name: str) -> None:
    tree, size, stride = TOWERS[name]
    tower = build(tree, *size)
    assert tower.grid.stride == stride
    assert tower.grid.shape == tuple(length // step for length, step in zip(size, stride, strict=True))
    settle(tower, size)
    shift = shift_of_cells(tower, size)
    assert np.abs(shift).max() < 0.3, f"{name}: {shift} cells off, {tower.grid}"


@pytest.mark.parametrize("name", TOWERS)
def test_it_is_rebuilt_from_its_configuration(name: str) -> None:
    tree, size, _ = TOWERS[name]
    tower = build(tree, *size)
    again = build_image_tower(tower.to_config(), spec(*size)).eval()
    again.load_state_dict(tower.state_dict())
    volume = noise(1, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(again(volume).pooled, tower(volume).pooled)
    assert again.to_config() == tower.to_config()


@pytest.mark.parametrize("name", TOWERS)
def test_frozen_layers_do_not_move(name: str) -> None:
    tree, size, _ = TOWERS[name]
    tower = build({**tree, "freeze_layers": 1}, *size).train()
    tower.apply_freezing("model.image")
    first, second, *_ = tower.stages()
    for part in (*first, *second) if len(tower.stages()) > 2 else first:
        parameters = [part] if isinstance(part, torch.nn.Parameter) else list(part.parameters())
        assert not any(parameter.requires_grad for parameter in parameters)
    frozen = build({**tree, "frozen": True}, *size).train()
    frozen.apply_freezing("model.image")
    assert frozen.is_frozen and not any(parameter.requires_grad for parameter in frozen.parameters())
    volume = noise(2, 1, *size)
    torch.testing.assert_close(frozen(volume).pooled, frozen(volume).pooled, rtol=0, atol=0)


@pytest.mark.parametrize("name", TOWERS)
def test_without_its_local_branch_every_parameter_is_reached_by_the_pooled_features(name: str) -> None:
    tree, size, _ = TOWERS[name]
    tower = build(tree, *size)
    tower.drop_local_branch()
    features = tower(noise(2, 1, *size), patches=True)
    assert features.pooled.shape == (2, tower.width)
    assert features.patch_tokens.shape == (2, tower.grid.cells, tower.patch_width)
    features.pooled.square().sum().backward()
    assert not [key for key, value in tower.named_parameters() if value.grad is None]
    projected = tower.pool_projection(features.patch_tokens)
    assert projected is None or projected.shape[-1] == tower.width


@pytest.mark.parametrize("name", TOWERS)
def test_the_dual_encoder_embeds_volumes_in_hounsfield_units(name: str) -> None:
    tree, size, _ = TOWERS[name]
    tokenizer, needs = wordpieces(), frozenset({"patches", "attention"})
    model = build_model(ModelConfig(image=tree, text=BERT, dim=16), spec(*size), tokenizer, needs)
    volume = torch.randint(-1000, 400, (2, 1, *size)).float()
    texts = tokenizer(REPORTS[:2]).tokens
    output = model(Batch(image=volume, text=texts, group=torch.arange(4).view(2, 2), keys=["a", "b"]))
    assert output.image.shape == (2, 16) and output.patches.shape == (2, model.grid.cells, 16)
    assert output.grid == model.grid and len(model.grid.shape) == 3
    sum(part.square().sum() for part in (output.image, output.patches, output.text)).backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


@pytest.mark.parametrize("name", RECOMPUTING)
def test_recomputation_gives_the_gradients_and_keeps_less(name: str) -> None:
    tree, size, _ = TOWERS[name]
    (plain, whole), (again, kept) = (_step({**tree, "checkpointing": on}, size) for on in (False, True))
    for key, grad in plain.items():
        torch.testing.assert_close(again[key], grad, rtol=1e-4, atol=1e-6, msg=key)
    assert kept < 0.75 * whole, f"{kept} of {whole} bytes"


def _step(tree: dict[str, Any], size: tuple[int, ...]) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a step, and the bytes of activations that the forward kept for the backward."""
    tower = build(tree, *size).train()
    tower.apply_freezing("model.image")
    parameters = {value.untyped_storage().data_ptr() for value in tower.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = tower(noise(2, 1, *size), patches=True)
    (features.pooled.square().mean() + features.patch_tokens.square().mean()).backward()
    grads = {key: value.grad for key, value in tower.named_parameters() if value.grad is not None}
    return grads, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
