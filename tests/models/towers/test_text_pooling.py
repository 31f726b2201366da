"""Pooling of text towers from transformers: a causal one at its last token, and what cannot be in one line."""

from typing import Any

import pytest
import torch

from tests.models.tiny import BERT, REPORTS, make, wordpieces
from vlp.core.config import ConfigError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 128},
    "llama": {"model_type": "llama", **SMALL},
    "qwen2": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2},
    "clip": {"model_type": "clip_text_model", **SMALL, "max_position_embeddings": 77},
}  # fmt: skip


def text(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "hf", "config": config, **more}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_tower_is_pooled_at_its_last_token(name: str) -> None:
    model, tokenizer = make(text=text(CAUSAL[name]), needs=frozenset())
    model.eval()
    tokens = tokenizer(REPORTS).tokens
    with torch.no_grad():
        together = model.encode_text(tokens)
        alone = torch.cat([model.encode_text(tokenizer([one]).tokens) for one in REPORTS])
        states = model.text_tower(tokens).states
    assert torch.allclose(together, alone, atol=1e-5), "padding has no part in it"
    last = tokens.mask.sum(1) - 1
    assert torch.allclose(model.text_tower(tokens).pooled, states[torch.arange(len(states)), last], atol=1e-5)
    assert float(torch.cdist(together, together)[0, 1]) > 1e-3
    assert model.text_tower.to_config()["pooling"] == "last"
    with pytest.raises(ConfigError, match=r"model\.text\.pooling: cls is the first token.* causal"):
        make(text=text(CAUSAL[name], pooling="cls"), needs=frozenset())


def test_others_stay_at_their_first() -> None:
    model, _ = make(text=BERT, needs=frozenset())
    assert model.text_tower.to_config()["pooling"] == "cls"


@pytest.mark.parametrize(
    "config", [CAUSAL["gpt2"], {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}]
)
def test_a_pooler_that_does_not_exist(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.pooling: a '\w+' has no pooler"):
        make(text=text(config, pooling="pooler"), needs=frozenset())


def test_an_image_pooler_that_does_not_exist() -> None:
    tree = {
        "kind": "hf",
        "config": {"model_type": "convnextv2", "depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2},
    }
    make(image=tree, size=32, channels=3, needs=frozenset())
    tree = {"kind": "hf", "pooling": "pooler", "config": {"model_type": "vit_mae", **SMALL, "patch_size": 16}}
    with pytest.raises(ConfigError, match=r"model\.image\.pooling: a 'vit_mae' has no pooler"):
        make(image=tree, size=32, channels=3, needs=frozenset())


@pytest.mark.parametrize("kind", ["siglip2_vision_model", "whisper", "detr"])
def test_a_tower_of_other_inputs_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.image.*{kind}") as caught:
        make(image={"kind": "hf", "config": {"model_type": kind}}, size=32, channels=3, needs=frozenset())
    assert "\n" not in str(caught.value)


def test_a_causal_tower_without_a_padding_token(tmp_path: Any) -> None:
    import transformers

    made = transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=200))
    made.save_pretrained(tmp_path)
    assert made.config.pad_token_id is None
    model, tokenizer = make(text={"kind": "hf", "path": str(tmp_path)}, tokenizer=wordpieces(), needs=frozenset())
    with torch.no_grad():
        vectors = model.eval().encode_text(tokenizer(REPORTS).tokens)
    assert bool(vectors.isfinite().all()) and float(torch.cdist(vectors, vectors)[0, 1]) > 1e-3
