"""MONAI's encoders: the features of its own networks, from files as VoCo, SuPreM and 2-D MAE name their tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.towers.volume.planted import build, noise
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import build_image_tower
from vlp.models.weights.load import load_tower

SWIN = {"embed_dim": 12, "window_size": (4, 4, 4), "depths": (2, 1, 1, 1)}
VIT = {"patch_size": (4, 8, 8), "hidden_size": 24, "mlp_dim": 96, "num_layers": 2, "num_heads": 3}


def swin_unetr(**options: Any) -> Any:
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(3)
    return SwinUNETR(1, 2, feature_size=12, window_size=(4, 4, 4), depths=(2, 1, 1, 1), **options).eval()


def monai_vit(**options: Any) -> Any:
    from monai.networks.nets import ViT

    torch.manual_seed(3)
    return ViT(1, (8, 24, 16), **{**VIT, **options}).eval()


@pytest.mark.parametrize(
    ("before", "after", "v2"),
    [("", "", False), ("module.", "module.", False), ("swinViT.", "module.backbone.swin_vit.", True)],
)
def test_the_encoder_of_a_swin_unetr_gives_its_features(before: str, after: str, v2: bool) -> None:
    net = swin_unetr(use_v2=v2)
    tree = {"kind": "monai", "stage": 1, "options": {**SWIN, "use_v2": v2}}
    tower = build(tree, 32, 32, 64)
    rest = before if before != "module." else ""
    file = {after + key.removeprefix(rest): value for key, value in net.state_dict().items()}
    report = load_tower(tower, file, "VoCo")
    assert not report.missing
    assert all(any(part in key for part in ("encoder", "decoder", "out.")) for key in report.unexpected)
    volume = noise(1, 1, 32, 32, 64)
    with torch.no_grad():
        expected, found = net.swinViT(volume), tower(volume, patches=True)
    torch.testing.assert_close(found.pooled, expected[-1].mean((2, 3, 4)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.patch_tokens, expected[1].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"proj_type": "perceptron", "qkv_bias": True}])
def test_a_vit_gives_its_features_and_knows_no_cross_attention(options: dict[str, Any]) -> None:
    net = monai_vit(**options)
    tower = build({"kind": "monai", "name": "vit", "options": {**VIT, **options}}, 8, 24, 16)
    report = load_tower(tower, {f"module.{key}": value for key, value in net.state_dict().items()}, "VoCo")
    assert not report.missing and all("norm_cross_attn" in key for key in report.unexpected)
    older = {key: value for key, value in net.state_dict().items() if "cross_attn" not in key}
    assert not load_tower(tower, older, "older").missing
    volume = noise(2, 1, 8, 24, 16)
    with torch.no_grad():
        expected, found = net(volume)[0], tower(volume, patches=True)
    torch.testing.assert_close(found.patch_tokens, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled, expected.mean(1), rtol=1e-4, atol=1e-5)
    assert tower.grid.shape == (2, 3, 2) and tower.grid.stride == (4, 8, 8) and tower.grid.offset == (2, 4, 4)


def test_a_2d_mae_starts_a_vit_of_monai() -> None:
    tree = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 24, "patch_size": 8}}
    torch.manual_seed(1)
    flat = build_image_tower(tree, ImageSpec(size=24)).eval()
    options = {**VIT, "qkv_bias": True}
    tower = build({"kind": "monai", "name": "vit", "options": options}, 4, 24, 24)
    report = load_tower(tower, dict(flat.model.state_dict()), "mae")
    assert not report.missing and report.unexpected == ["cls_token"]
    grey = noise(1, 1, 24, 24)
    with torch.no_grad():
        ours = tower.model.patch_embedding(grey.unsqueeze(2).expand(-1, -1, 4, -1, -1))
        theirs = flat.model.patch_embed(grey.expand(-1, 3, -1, -1)) + flat.model.pos_embed[:, 1:]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        block, flat_block = tower.model.blocks[0].eval(), flat.model.blocks[0]
        torch.testing.assert_close(block(ours), flat_block(ours), rtol=1e-4, atol=1e-4)


def test_what_monai_does_not_take_is_said() -> None:
    with pytest.raises(
        ConfigError, match=r"volume.size \[32, 48, 32\] is no multiple of the strides of a SwinUNETR \[32, 32, 32\]"
    ):
        build({"kind": "monai", "options": SWIN}, 32, 48, 32)
    with pytest.raises(ConfigError, match=r"model.image.options: MONAI's ViT does not take them: .*feature_size"):
        build({"kind": "monai", "name": "vit", "options": {"feature_size": 3}}, 32, 32, 32)
    with pytest.raises(ConfigError, match=r"unknown|Input should be"):
        build({"kind": "monai", "name": "unet"}, 32, 32, 32)
