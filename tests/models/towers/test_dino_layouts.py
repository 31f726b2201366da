"""DINOv2's largest size (gated MLP) and DINOv3 (rotary positions, registers), in each library's spelling.

The oracle is transformers' forward on the same input.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.towers.test_pretrained import image_tower, pictures, saved, shake, through

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT = {"depth": 2, "embed_dim": 32, "num_heads": 4}


def of_transformers(kind: str, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    return shake(AutoModel.from_config(AutoConfig.for_model(kind, **SIZE, **options)))


def expected(model: Any, size: int, prefix: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        states = model(pixel_values=pictures(size)).last_hidden_state
    return states[:, 0], states[:, prefix:]


def facebook_gated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return transformers' file of a gated DINOv2 as Facebook's own code names its MLP: w12 = [gate, up], w3."""
    return {name.replace("weights_in", "w12").replace("weights_out", "w3"): value for name, value in tensors.items()}


@pytest.mark.parametrize("layout", ["transformers", "in memory", "facebook"])
@pytest.mark.parametrize("target", ["timm", "hf"])
def test_a_gated_dinov2(layout: str, target: str, tmp_path: Path) -> None:
    model = of_transformers("dinov2", image_size=56, patch_size=14, use_swiglu_ffn=True)
    tensors = dict(model.state_dict()) if layout == "in memory" else saved(model, tmp_path)
    if layout == "facebook":
        tensors = facebook_gated(tensors)
        assert any("w12" in name for name in tensors)
    tree = (
        {"kind": "timm", "name": "vit_giant_patch14_dinov2", "options": {**VIT, "mlp_ratio": 176 / 32}}
        if target == "timm"
        else {"kind": "hf", "config": {"model_type": "dinov2", **SIZE, "patch_size": 14, "use_swiglu_ffn": True}}
    )
    report, pooled, cells = through(image_tower(tree, 56), tensors, 56)
    cls, patches = expected(model, 56, 1)
    assert not report.missing, report
    assert torch.allclose(pooled, cls, atol=1e-5) and torch.allclose(cells, patches, atol=1e-5)


def facebook_v3(model: Any, gated: bool) -> dict[str, Tensor]:
    """Return a transformers DINOv3 under the names of Facebook's own checkpoints."""
    old = model.state_dict()
    new = {
        "cls_token": old["embeddings.cls_token"],
        "storage_tokens": old["embeddings.register_tokens"],
        "mask_token": old["embeddings.mask_token"].squeeze(0),
        "patch_embed.proj.weight": old["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": old["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": torch.ones(4),
        "norm.weight": old["norm.weight"],
        "norm.bias": old["norm.bias"],
    }
    mlp = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"} if gated else {"fc1": "up_proj", "fc2": "down_proj"}
    for layer in range(2):
        here, there = f"blocks.{layer}.", f"model.layer.{layer}."
        query, value = (old[f"{there}attention.{one}_proj.bias"] for one in "qv")
        new[f"{here}attn.qkv.weight"] = torch.cat([old[f"{there}attention.{one}_proj.weight"] for one in "qkv"])
        new[f"{here}attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
        for last in ("weight", "bias"):
            new[f"{here}attn.proj.{last}"] = old[f"{there}attention.o_proj.{last}"]
            for name in ("norm1", "norm2"):
                new[f"{here}{name}.{last}"] = old[f"{there}{name}.{last}"]
            for ours, theirs in mlp.items():
                new[f"{here}mlp.{ours}.{last}"] = old[f"{there}mlp.{theirs}.{last}"]
        new[f"{here}ls1.gamma"] = old[f"{there}layer_scale1.lambda1"]
        new[f"{here}ls2.gamma"] = old[f"{there}layer_scale2.lambda1"]
    return new


@pytest.mark.parametrize("layout", ["transformers", "facebook"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("target", ["timm", "hf"])
def test_dinov3(layout: str, gated: bool, target: str, tmp_path: Path) -> None:
    config = {
        "patch_size": 16,
        "num_register_tokens": 4,
        "intermediate_size": 128,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
    }
    model = of_transformers("dinov3_vit", image_size=64, **config)
    tensors = saved(model, tmp_path) if layout == "transformers" else facebook_v3(model, gated)
    name = "vit_huge_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb"
    tree = (
        {"kind": "timm", "name": name, "options": {**VIT, "mlp_ratio": 4.0, "global_pool": "token"}}
        if target == "timm"
        else {"kind": "hf", "config": {"model_type": "dinov3_vit", **SIZE, **config}}
    )
    report, pooled, cells = through(image_tower(tree, 64), tensors, 64)
    cls, patches = expected(model, 64, 5)
    assert not report.missing, report
    assert torch.allclose(pooled, cls, atol=1e-5) and torch.allclose(cells, patches, atol=1e-5)
