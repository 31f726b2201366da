"""A model that was saved in half precision is scored in fp32, as its card's digest and dtype say."""

from pathlib import Path

import pytest
import torch

from vlp_eval.models import transformers as embedder_hf


def test_a_model_in_fp16_is_loaded_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 100},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(config).half().save_pretrained(tmp_path)
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    seen: list[torch.nn.Module] = []
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: type("T", (), {"pad_token": "x"})()
    )
    monkeypatch.setattr(embedder_hf.TransformersEmbedder, "__init__", lambda self, model, *_: seen.append(model))
    embedder_hf.TransformersEmbedder.load(str(tmp_path), "cpu")
    assert {value.dtype for value in seen[0].parameters()} == {torch.float32}
