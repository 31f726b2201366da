"""Activation checkpointing: the same gradients, less kept for the backward, and an error where it would do nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import batch, clip_tokens, make, wordpieces
from vlp.batch import Batch
from vlp.core.config import ConfigError

BERT: dict[str, Any] = {
    "kind": "hf",
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}
VIT = {"kind": "hf", "config": {**BERT["config"], "model_type": "vit", "patch_size": 8, "hidden_dropout_prob": 0.1}}
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "hf text, with dropout": ("text", BERT),
    "hf image, with dropout": ("image", VIT),
    "timm transformer": (
        "image",
        {
            "kind": "timm",
            "name": "vit_tiny_patch16_224",
            "options": {"depth": 4, "embed_dim": 24, "patch_size": 8, "proj_drop_rate": 0.1},
        },
    ),
    "timm CNN": ("image", {"kind": "timm", "name": "resnet18"}),
    "open_clip image": (
        "image",
        {
            "kind": "open_clip",
            "config": {"embed_dim": 24, "vision_cfg": {"layers": 4, "width": 32, "head_width": 8, "patch_size": 8}},
        },
    ),
    "open_clip image of timm": (
        "image",
        {
            "kind": "open_clip",
            "config": {
                "embed_dim": 24,
                "vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear"},
            },
        },
    ),
    "open_clip text": (
        "text",
        {"kind": "open_clip", "config": {"embed_dim": 24, "text_cfg": {"layers": 4, "width": 32, "heads": 4}}},
    ),
}


def one_step(part: str, tower: dict[str, Any], checkpointing: bool) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a step, and the bytes of activations that the forward kept for the backward."""
    tokenizer = clip_tokens() if part == "text" and tower["kind"] == "open_clip" else wordpieces()
    model, _ = make(**{part: {**tower, "checkpointing": checkpointing}}, tokenizer=tokenizer)
    data = batch(tokenizer)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        kept, output = activations(model, data)
    sum(one.float().square().mean() for one in (output.image, output.text, output.patches, output.tokens)).backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}, kept


def activations(model: nn.Module, data: Batch) -> tuple[int, Any]:
    parameters = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor  # held, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(data)
    return sum(one.untyped_storage().nbytes() for one in kept.values()), output


@pytest.mark.parametrize("name", TOWERS)
def test_the_gradients_are_equal_and_less_is_kept(name: str) -> None:
    plain, whole = one_step(*TOWERS[name], checkpointing=False)
    again, kept = one_step(*TOWERS[name], checkpointing=True)
    assert again.keys() == plain.keys() and len(plain) > 20
    for parameter, grad in plain.items():
        torch.testing.assert_close(again[parameter], grad, rtol=1e-5, atol=1e-7, msg=parameter)
    assert kept < 0.75 * whole, f"{kept} of {whole} bytes"


@pytest.mark.parametrize(
    ("tower", "reason"),
    [
        ({"kind": "conv", "width": 8, "blocks": [1, 1, 1]}, "a tower of kind conv cannot recompute"),
        ({"kind": "timm", "name": "inception_v3"}, "checkpointing not supported"),
        (
            {
                "kind": "open_clip",
                "config": {"embed_dim": 24, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
            },
            "open_clip's own ResNet cannot recompute",
        ),
    ],
    ids=["conv", "timm", "open_clip"],
)
def test_a_tower_that_cannot_says_so(tower: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.image\.checkpointing: .*{reason}.*; leave it out"):
        make(image={**tower, "checkpointing": True}, size=96)
