"""What a file lacks is judged by what it does: one table that is missing is another model, however much else was loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.tiny import NONE, clip_tokens, make
from tests.models.towers.test_pretrained import VIT, image_tower, pictures, shake
from vlp.core.config import ConfigError
from vlp.models.heads import HeadConfig
from vlp.models.weights.files import read_weights
from vlp.models.weights.load import load_tower

SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 6], "num_heads": [2, 4], "window_size": 4}


def saved(tensors: dict[str, Tensor], path: Path) -> str:
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, str(path))
    return str(path)


def swin(**options: Any) -> Any:
    import transformers

    return shake(transformers.SwinModel(transformers.SwinConfig(**{**SWIN, **options})))


def test_swin_with_other_windows_or_of_another_library(tmp_path: Path) -> None:
    source = saved(swin().state_dict(), tmp_path / "swin.safetensors")
    tree = {"kind": "hf", "config": {"model_type": "swin", **SWIN}, "pretrained": source}
    make(image=tree, size=64, channels=3, needs=frozenset())
    other = {**tree, "config": {**tree["config"], "window_size": 8}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"\(a relative position table\).*model\.image\.allow_missing"):
        make(image=other, size=64, channels=3, needs=frozenset())
    options = {"embed_dim": 16, "depths": [2, 6], "num_heads": [2, 4], "window_size": 4}
    tree = {"kind": "timm", "name": "swin_tiny_patch4_window7_224", "options": options, "pretrained": source}
    with pytest.raises(ConfigError, match=r"relative_position_bias_table \(a relative position table\)"):
        make(image={**tree, "minimum_loaded": 0.5}, size=64, channels=3, needs=frozenset())


def test_beit_of_another_library(tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    relative = {"use_relative_position_bias": True, "image_size": 64, "patch_size": 16}
    model = transformers.BeitModel(transformers.BeitConfig(**shape, **relative))
    options = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    tree = {"kind": "timm", "name": "beit_base_patch16_224", "options": options, "minimum_loaded": 0.5}
    source = saved(model.state_dict(), tmp_path / "beit.safetensors")
    with pytest.raises(ConfigError, match="a relative position table"):
        make(image={**tree, "pretrained": source}, size=64, channels=3, needs=frozenset())


def test_positions_that_do_not_fit(tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.BertModel(transformers.BertConfig(**shape, vocab_size=150, max_position_embeddings=32))
    source = saved(model.state_dict(), tmp_path / "bert.safetensors")
    text = {"kind": "hf", "config": {"model_type": "bert", **shape, "vocab_size": 150}, "pretrained": source}
    with pytest.raises(ConfigError, match=r"position_embeddings\.weight \(positions\).*model\.text\.allow_missing"):
        make(text=text)
    make(text={**text, "allow_missing": ["embeddings.position_embeddings"]})


def test_a_text_tower_of_siglip_in_open_clips(tmp_path: Path) -> None:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    model = transformers.SiglipTextModel(
        transformers.SiglipTextConfig(**shape, vocab_size=49408, max_position_embeddings=77, projection_size=24)
    )
    source = saved(model.state_dict(), tmp_path / "siglip.safetensors")
    config = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 4, "no_causal_mask": True}
    text = {"kind": "open_clip", "config": {"embed_dim": 24, "text_cfg": config}, "pretrained": source}
    with pytest.raises(ConfigError, match=r"text_projection \(a projection\)"):
        make(text=text, tokenizer=clip_tokens(), text_head=NONE, needs=frozenset())


def test_an_mlp_head_does_not_become_a_linear_one(tmp_path: Path) -> None:
    mlp, linear = HeadConfig(kind="mlp", hidden=48), HeadConfig(kind="linear")
    model, _ = make(image_head=mlp, needs=frozenset())
    source = saved(model.state_dict(), tmp_path / "whole.safetensors")
    assert make(image_head=mlp, needs=frozenset(), pretrained=source)
    with pytest.raises(ConfigError, match=r"Without image_head\.weight \(a projection\).*model\.allow_missing"):
        make(image_head=linear, needs=frozenset(), pretrained=source)
    made, _ = make(image_head=linear, needs=frozenset(), pretrained=source, allow_missing=["image_head"])
    assert torch.equal(made.text_head.weight, model.text_head.weight)  # type: ignore[arg-type]


def test_heads_for_parts_that_a_model_never_had_are_new(tmp_path: Path) -> None:
    model, _ = make(needs=frozenset())
    source = saved(model.state_dict(), tmp_path / "whole.safetensors")
    made, _ = make(needs=frozenset({"patches", "words"}), pretrained=source)
    assert made.patch_head is not None and torch.equal(made.image_head.weight, model.image_head.weight)  # type: ignore[arg-type]


def test_what_no_output_depends_on_may_be_missing(tmp_path: Path) -> None:
    """A mask token, a pooler that the chosen pooling passes by, a bias that starts at 0."""
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.SiglipTextConfig(**shape, vocab_size=150, max_position_embeddings=64)
    tensors = transformers.SiglipTextModel(config).state_dict()
    del tensors["head.weight"], tensors["head.bias"]
    tree = {
        "kind": "hf",
        "config": {"model_type": "siglip_text_model", **shape, "max_position_embeddings": 64, "vocab_size": 150},
    }
    source = saved(tensors, tmp_path / "text.safetensors")
    make(text={**tree, "pooling": "mean", "pretrained": source}, needs=frozenset())
    with pytest.raises(ConfigError, match=r"Without head\.weight"):
        make(text={**tree, "pooling": "pooler", "pretrained": source}, needs=frozenset())


@pytest.mark.parametrize("target", ["timm", "hf"])
def test_i_jepas_release(target: str, tmp_path: Path) -> None:
    """The layout of facebookresearch/ijepa's `jepa-latest.pth.tar`: encoder, predictor, target_encoder, optimiser, numbers."""
    import timm

    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model = shake(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **VIT, **options))
    teacher = {f"module.{name}": value for name, value in model.state_dict().items()}
    student = {name: value + 1 for name, value in teacher.items()}
    counts = {"epoch": 300, "loss": 0.13, "batch_size": 16, "world_size": 128, "lr": 1e-3}
    inside = {"encoder": student, "predictor": {"module.mask_token": torch.zeros(1)}, "target_encoder": teacher}
    torch.save(
        {**inside, "opt": {"state": {0: {"step": torch.ones(())}}}, "scaler": None, **counts}, tmp_path / "a.pth.tar"
    )
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    tree = (
        {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {**VIT, **options}}
        if target == "timm"
        else {"kind": "hf", "config": {"model_type": "ijepa", **size, "patch_size": 16, "layer_norm_eps": 1e-6}}
    )
    for place in (tmp_path / "a.pth.tar", tmp_path):
        tower = image_tower(tree, 64)
        report = load_tower(tower, read_weights(place), "x")
        assert not report.missing
        with torch.no_grad():
            expected = model.forward_features(pictures(64))
            features = tower(pictures(64), patches=True)
        assert torch.allclose(features.patch_tokens, expected, atol=1e-5)
        assert torch.allclose(features.pooled, expected.mean(1), atol=1e-5)
    chosen = read_weights(tmp_path / "a.pth.tar", student=True)
    assert torch.equal(chosen["module.pos_embed"], student["module.pos_embed"])
