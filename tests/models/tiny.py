"""Tiny random models and batches that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import torch

from vlp.batch import Batch, Phrases, Prompts
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.models.build import build_model
from vlp.models.dual_encoder import DualEncoder, ModelConfig
from vlp.models.heads import HeadConfig

REPORTS = [
    "There is a small nodule in the right upper zone. No pleural effusion.",
    "The heart is enlarged. Moderate pulmonary oedema.",
    "No pneumothorax.",
    "Consolidation in the left lower zone. Pacemaker leads unchanged.",
]
BERT: dict[str, Any] = {
    "kind": "hf",
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
CONV: dict[str, Any] = {"kind": "conv", "width": 8, "blocks": [1, 1, 1], "groups": 4}
NONE = HeadConfig(kind="none")
ALL = frozenset({"patches", "words", "tokens", "phrases", "prompts", "logit_scale", "logit_bias", "attention"})


def wordpieces(length: int = 64) -> Tokenizer:
    return build_tokenizer(TextSpec(vocab_size=150, length=length), REPORTS * 3)


def clip_tokens(length: int = 77) -> Tokenizer:
    return build_tokenizer(TextSpec(kind="open_clip", length=length))


def make(
    image: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    size: int = 32,
    channels: int = 1,
    needs: frozenset[str] = ALL,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    scale_init: tuple[float, float | None] | None = (2.0, -3.0),
    **rest: Any,
) -> tuple[DualEncoder, Tokenizer]:
    torch.manual_seed(seed)
    tokenizer = tokenizer or wordpieces()
    spec = ImageSpec(size=size, channels=channels)  # type: ignore[arg-type]
    config = ModelConfig(image=image or CONV, text=text or BERT, **{"dim": 24, **rest})
    return build_model(config, spec, tokenizer, needs, scale_init), tokenizer


def batch(tokenizer: Tokenizer, size: int = 32, channels: int = 1, rows: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.randint(0, 256, (rows, channels, size, size), dtype=torch.uint8, generator=generator),
        text=tokenizer(REPORTS[:rows]).tokens,
        group=torch.arange(2 * rows).view(rows, 2),
        keys=[f"sample-{row}" for row in range(rows)],
        phrases=Phrases(
            tokens=tokenizer(["Small nodule.", "Heart enlarged, no change."]).tokens,
            owner=torch.tensor([0, 1]),
            code=torch.tensor([5, 6]),
        ),
        prompts=Prompts(
            tokenizer(["there is a nodule", "there is no nodule"]).tokens,
            torch.arange(2),
            ["nodule"],
            torch.zeros(rows, 1),
        ),
    )
