"""Image encoders in each published layout, written by the library (or by the explicit names) that publishes it.

The oracle is the original library's forward on the same input.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import make
from vlp.core.config import ConfigError
from vlp.modalities.image.spec import ImageSpec
from vlp.models.towers.base import build_image_tower
from vlp.models.weights.files import read_weights
from vlp.models.weights.load import Report, load_tower

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT = {"depth": 2, "embed_dim": 32, "num_heads": 4}


def image_tower(tree: dict[str, Any], size: int) -> Any:
    return build_image_tower(tree, ImageSpec(size=size, channels=3)).eval()


def pictures(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def shake(module: nn.Module) -> Any:
    """Make every parameter matter: layer scales of 1e-5 and zero biases would hide a wrong place."""
    torch.manual_seed(7)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.2)
    return module.eval()


def through(tower: Any, tensors: dict[str, Tensor], size: int) -> tuple[Report, Tensor, Tensor]:
    report = load_tower(tower, tensors, "test")
    with torch.no_grad():
        features = tower(pictures(size), patches=True)
    return report, features.pooled, features.patch_tokens


def timm_vit(size: int, patch: int = 14, **options: Any) -> dict[str, Any]:
    name = "vit_small_patch14_dinov2" if patch == 14 else "vit_tiny_patch16_224"
    return {"kind": "timm", "name": name, "options": {**VIT, **options}}


def dinov2(registers: bool, size: int = 56) -> Any:
    from transformers import AutoConfig, AutoModel

    kind = "dinov2_with_registers" if registers else "dinov2"
    return shake(AutoModel.from_config(AutoConfig.for_model(kind, **SIZE, image_size=size, patch_size=14)))


def facebook_names(model: Any) -> dict[str, Tensor]:
    """Return a transformers DINOv2 under the names of Facebook's own code, query, key and value fused."""
    old, new = model.state_dict(), {}
    plain = {
        "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings", "register_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
    }  # fmt: skip
    new = {name: old[theirs] for name, theirs in plain.items() if theirs in old}
    for layer in range(2):
        here, there = f"blocks.{layer}.", f"encoder.layer.{layer}."
        for last in ("weight", "bias"):
            new[f"{here}attn.qkv.{last}"] = torch.cat([old[f"{there}attention.{one}_proj.{last}"] for one in "qkv"])
            new[f"{here}attn.proj.{last}"] = old[f"{there}attention.o_proj.{last}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                new[f"{here}{name}.{last}"] = old[f"{there}{name}.{last}"]
        new[f"{here}ls1.gamma"] = old[f"{there}layer_scale1.lambda1"]
        new[f"{here}ls2.gamma"] = old[f"{there}layer_scale2.lambda1"]
    return new


def saved(model: Any, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    return read_weights(folder)


def expect_dinov2(model: Any, size: int = 56) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        states = model(pixel_values=pictures(size)).last_hidden_state
    prefix = 1 + (4 if "register" in model.config.model_type else 0)
    return states[:, 0], states[:, prefix:]


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("layout", ["transformers", "facebook", "teacher", "chunked"])
@pytest.mark.parametrize("target", ["timm", "hf"])
def test_rad_dino_and_dinov2(registers: bool, layout: str, target: str, tmp_path: Path) -> None:
    model = dinov2(registers)
    if layout == "transformers":
        tensors = saved(model, tmp_path)
    else:
        tensors = facebook_names(model)
    if layout == "chunked":
        tensors = {name.replace("blocks.", "blocks.0."): value for name, value in tensors.items()}
    if layout == "teacher":
        student = {f"student.backbone.{name}": value + 1 for name, value in tensors.items()}
        teacher = {f"teacher.backbone.{name}": value for name, value in tensors.items()}
        heads = {"teacher.dino_head.mlp.0.weight": torch.zeros(3, 3)}
        tensors = {**student, **teacher, **heads}
    kind = "dinov2_with_registers" if registers else "dinov2"
    tree = {"kind": "hf", "config": {"model_type": kind, **SIZE, "patch_size": 14}} if target == "hf" else (
        {"kind": "timm", "name": "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2", "options": VIT}
    )  # fmt: skip
    report, pooled, cells = through(image_tower(tree, 56), tensors, 56)
    expected = expect_dinov2(model)
    assert torch.allclose(pooled, expected[0], atol=1e-5) and torch.allclose(cells, expected[1], atol=1e-5)
    assert not report.missing
    if layout == "teacher":
        assert report.prefix == "teacher.backbone." and "teacher.dino_head.mlp.0.weight" in report.unexpected


def test_the_container_of_a_training_script_is_opened(tmp_path: Path) -> None:
    tensors = facebook_names(dinov2(False))
    for key in ("model", "state_dict", "teacher", "student", "module"):
        wrapped = {key: {f"module.backbone.{name}": value for name, value in tensors.items()}, "epoch": 3}
        torch.save(wrapped, tmp_path / "checkpoint.pth")
        report = load_tower(image_tower(timm_vit(56), 56), read_weights(tmp_path / "checkpoint.pth"), "x")
        assert not report.missing and report.prefix == "module.backbone."


@pytest.mark.parametrize("form", ["containers", "prefixes", "encoders"])
def test_the_teacher_is_taken_and_the_student_where_it_is_asked_for(form: str, tmp_path: Path) -> None:
    teacher = facebook_names(dinov2(False))
    student = {name: value + 1 for name, value in teacher.items()}
    if form == "containers":
        file: Any = {"student": {f"backbone.{name}": value for name, value in student.items()}, "teacher": teacher}
    else:
        first, second = ("student", "teacher") if form == "prefixes" else ("encoder", "target_encoder")
        file = {f"{first}.{name}": value for name, value in student.items()}
        file |= {f"{second}.{name}": value for name, value in teacher.items()}
    torch.save(file, tmp_path / "dino.pth")
    given = {**timm_vit(56), "pretrained": str(tmp_path / "dino.pth")}
    for options, expected in (({}, teacher), ({"student": True}, student)):
        model, _ = make(image={**given, **options}, size=56, channels=3)
        assert torch.equal(model.image_tower.model.norm.bias, expected["norm.bias"]), options  # type: ignore[union-attr]


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("target", ["timm", "hf"])
def test_positions_are_interpolated_as_transformers_does(target: str, registers: bool) -> None:
    model = dinov2(registers, size=56)
    kind = "dinov2_with_registers" if registers else "dinov2"
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    tree = {"kind": "hf", "config": {"model_type": kind, **SIZE, "patch_size": 14}} if target == "hf" else (
        {"kind": "timm", "name": name, "options": VIT}
    )  # fmt: skip
    report, pooled, cells = through(image_tower(tree, 98), facebook_names(model), 98)
    expected = expect_dinov2(model, 98)
    assert torch.allclose(pooled, expected[0], atol=1e-5) and torch.allclose(cells, expected[1], atol=1e-5)
    ((resized, sizes),) = report.resized.items()
    assert resized.startswith(("pos", "embeddings.pos")) and sizes[0] == (1, 17, 32), "the class token's place is kept"
    own = 49 if registers and target == "timm" else 50  # that tower's class token carries its position itself
    assert sizes[1] == (1, own, 32) and not report.missing


@pytest.mark.parametrize("target", ["timm", "hf"])
def test_mae(target: str) -> None:
    import timm

    model = shake(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **VIT))
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_embed.weight": torch.zeros(16, 32),
        "decoder_pos_embed": torch.zeros(1, 17, 16),
    }
    tree = (
        timm_vit(64, 16)
        if target == "timm"
        else {
            "kind": "hf",
            "config": {"model_type": "vit", **SIZE, "intermediate_size": 128, "layer_norm_eps": 1e-6, "patch_size": 16},
        }
    )
    report, pooled, cells = through(image_tower(tree, 64), {**model.state_dict(), **decoder}, 64)
    with torch.no_grad():
        expected = model.forward_features(pictures(64))
    assert torch.allclose(pooled, expected[:, 0], atol=1e-5) and torch.allclose(cells, expected[:, 1:], atol=1e-5)
    assert report.unexpected == sorted(decoder) and not report.missing


@pytest.mark.parametrize("target", ["hf", "timm", "hf as an MAE"])
def test_an_mae_of_transformers(target: str, tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {f"decoder_{name}": value for name, value in {**SIZE, "intermediate_size": 64}.items()}
    shape = {"image_size": 64, "patch_size": 16, "intermediate_size": 128, "layer_norm_eps": 1e-6}
    model = shake(ViTMAEForPreTraining(ViTMAEConfig(**SIZE, **shape, **decoder)))
    vit = {"model_type": "vit", **SIZE, "intermediate_size": 128, "layer_norm_eps": 1e-6, "patch_size": 16}
    mae = {**vit, "model_type": "vit_mae"}
    tree = timm_vit(64, 16) if target == "timm" else {"kind": "hf", "config": vit if target == "hf" else mae}
    report, pooled, cells = through(image_tower(tree, 64), saved(model, tmp_path), 64)
    in_order = torch.arange(16.0).expand(2, -1)
    model.vit.embeddings.config.mask_ratio = 0.0  # of the oracle alone: as a tower it must not mask by itself
    with torch.no_grad():
        expected = model.vit(pixel_values=pictures(64), noise=in_order).last_hidden_state
    assert torch.allclose(pooled, expected[:, 0], atol=1e-5) and torch.allclose(cells, expected[:, 1:], atol=1e-5)
    assert not report.missing and report.prefix == "vit."
    assert report.unexpected and all(name.startswith("decoder.") for name in report.unexpected)


def test_chexworld_takes_the_teacher_and_has_no_class_token(tmp_path: Path) -> None:
    import timm

    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model = shake(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **VIT, **options))
    teacher = {f"target_encoder.{name}": value for name, value in model.state_dict().items()}
    student = {f"encoder.{name}": value + 1 for name, value in model.state_dict().items()}
    script = {"args": Namespace(model="vit_tiny", lr=1e-3, output="out"), "epoch": 3, "optimizer": {"state": {}}}
    torch.save({"model": {**student, **teacher}, **script}, tmp_path / "checkpoint.pth")
    tensors = read_weights(tmp_path / "checkpoint.pth")
    report, pooled, _ = through(image_tower(timm_vit(64, 16, **options), 64), tensors, 64)
    with torch.no_grad():
        assert torch.allclose(pooled, model(pictures(64)), atol=1e-5)
    assert report.prefix == "target_encoder." and not report.missing
    assert all(name.startswith("encoder.") for name in report.unexpected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_resnet_of_lvm_med(name: str, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    for key, value in model.state_dict().items():
        if "running" in key or (".bn" in key and value.is_floating_point()):
            value.add_(torch.rand_like(value) * 0.2)
    torch.save(model.state_dict(), tmp_path / "lvmmed.torch")
    report, pooled, _ = through(
        image_tower({"kind": "timm", "name": name}, 64), read_weights(tmp_path / "lvmmed.torch"), 64
    )
    model.fc = nn.Identity()
    with torch.no_grad():
        assert torch.allclose(pooled, model(pictures(64)), rtol=1e-5, atol=1e-5)
    assert report.unexpected == ["fc.bias", "fc.weight"] and not report.missing


@pytest.mark.parametrize("prefix", ["", "model.", "image_encoder."])
def test_a_sam_encoder_is_refused_with_the_reason(prefix: str, tmp_path: Path) -> None:
    """LVM-Med's ViT, bare or under `model.`; no share of it is enough, since what it lacks are no tensors."""
    import timm

    sam = timm.create_model("samvit_base_patch16", num_classes=0, img_size=64, **VIT, window_size=2)
    torch.save({f"{prefix}{name}": value for name, value in sam.state_dict().items()}, tmp_path / "lvmmed_vit.pth")
    given = {"pretrained": str(tmp_path / "lvmmed_vit.pth"), "minimum_loaded": 0.0}
    with pytest.raises(
        ConfigError,
        match=r"model\.image\.pretrained: lvmmed_vit\.pth is a SAM-style image encoder: its blocks add relative",
    ):
        make(image={**timm_vit(64, 16), **given}, size=64, channels=3)


def test_a_medical_mae_of_a_cnn_is_found_behind_its_prefix(tmp_path: Path) -> None:
    import torchvision

    model = shake(torchvision.models.resnet18())
    inside = {f"module.model.encoder.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**inside, "module.model.decoder.weight": torch.zeros(2)}}, tmp_path / "cnn.pth")
    report = load_tower(image_tower({"kind": "timm", "name": "resnet18"}, 64), read_weights(tmp_path / "cnn.pth"), "x")
    assert not report.missing and report.prefix == "module.model.encoder."
    assert "module.model.decoder.weight" in report.unexpected


def test_the_patch_kernel_is_resized_where_the_patch_is_another() -> None:
    from timm.layers import resample_patch_embed

    sixteen = shake(image_tower(timm_vit(64, 16), 64))
    eight = image_tower(timm_vit(32, 16, patch_size=8), 32)
    report = load_tower(eight, sixteen.model.state_dict(), "x")
    assert report.resized == {"patch_embed.proj.weight": ((32, 3, 16, 16), (32, 3, 8, 8))} and not report.missing
    expected = resample_patch_embed(sixteen.model.patch_embed.proj.weight, [8, 8])
    assert torch.allclose(eight.model.patch_embed.proj.weight, expected, atol=1e-6)


def hub_cache(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Lay out a repository as huggingface_hub caches it."""
    place = folder / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file, content in files.items():
        (place / "snapshots" / ("0" * 40) / file).write_bytes(content)


def test_names_of_the_hub_and_of_open_clip_come_from_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from open_clip.pretrained import get_pretrained_cfg
    from safetensors.torch import save

    source = shake(image_tower(timm_vit(64, 16), 64))
    weights = save({name: value.contiguous() for name, value in source.model.state_dict().items()})
    hub_cache(tmp_path, "lab/mae", {"model.safetensors": weights, "other.safetensors": weights})
    (where,) = {get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")["hf_hub"].strip("/")}
    hub_cache(tmp_path, where, {"open_clip_model.safetensors": weights})
    for name, value in (("HF_HUB_CACHE", str(tmp_path)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(constants, name, value)
    for name in ("hf:lab/mae", "hf:lab/mae/other.safetensors", "open_clip:ViT-B-32/laion2b_s34b_b79k"):
        model, _ = make(image={**timm_vit(64, 16), "pretrained": name}, size=64, channels=3)
        with torch.no_grad():
            found, expected = (one.eval()(pictures(64)).pooled for one in (model.image_tower, source))
        assert torch.equal(found, expected), name
    with pytest.raises(ConfigError, match=r"'open_clip:ViT-B-32/openai' is neither cached nor to be had"):
        make(image={**timm_vit(64, 16), "pretrained": "open_clip:ViT-B-32/openai"}, size=64, channels=3)
    with pytest.raises(ConfigError, match=r"open_clip has no weights 'nothing' for 'ViT-B-32'"):
        make(image={**timm_vit(64, 16), "pretrained": "open_clip:ViT-B-32/nothing"}, size=64, channels=3)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_one_channel_and_three_channels(name: str) -> None:
    tree = {"kind": "timm", "name": "resnet10t"} if name == "cnn" else timm_vit(64, 16)
    first = "conv1.0.weight" if name == "cnn" else "patch_embed.proj.weight"
    three = image_tower(tree, 64)
    shake(three)
    one = build_image_tower({**tree, "channels": 1}, ImageSpec(size=64, channels=1)).eval()
    report = load_tower(one, three.model.state_dict(), "x")
    assert list(report.resized) == [first]
    grey = pictures(64)[:, :1]
    with torch.no_grad():
        expected = three(grey.expand(-1, 3, -1, -1)).pooled
        assert torch.allclose(one(grey).pooled, expected, rtol=1e-4, atol=1e-5)
        back = image_tower(tree, 64)
        load_tower(back, one.model.state_dict(), "x")
        assert torch.allclose(back(grey.expand(-1, 3, -1, -1)).pooled, expected, rtol=1e-4, atol=1e-4)
