"""The text tower alone, as a transformers model: to condition a diffusion model, or to embed reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import hf_processor
from .base import CannotExpress

if TYPE_CHECKING:
    from vlp.hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the tower and its tokenizer; raises CannotExpress for those that transformers cannot build."""
    from vlp.models.towers.hf import NOT_IN_AUTO, HfTextTower

    tower = loaded.model.text_tower
    if not isinstance(tower, HfTextTower):
        raise CannotExpress(f"transformers has no text tower of kind {tower.kind!r}: export with --format onnx or vlp")
    hf_processor.write_tokenizer(loaded.tokenizer, folder, not tower.fixed_length)
    tower.disable_attention_capture()
    tower.model.save_pretrained(folder)  # type: ignore[operator]
    notes = ["the tower's own token states (last_hidden_state), before the projection head"]
    if tower.config.pooling != "pooler":
        notes.append(
            f"texts were pooled by {tower.config.pooling} in training; a pooler_output, where there is one, is not"
        )
    if tower.hf_config.model_type in NOT_IN_AUTO:
        notes.append(
            f"AutoModel does not build this tower, transformers.{NOT_IN_AUTO[tower.hf_config.model_type]} does"
        )
    return notes


def native(loaded: Pretrained, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean token state of each text, at unit length."""
    import torch

    tokens = loaded.tokenizer(list(texts)).tokens
    with torch.no_grad():
        return {"texts": _mean(loaded.model.text_tower(tokens).states, tokens.mask)}


def _mean(states: Any, mask: Any) -> np.ndarray:
    import torch

    real = mask.unsqueeze(-1)
    result: np.ndarray = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=1).numpy()
    return result


def load(source: str, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the tower with transformers alone."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    (name,) = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).architectures
    model = getattr(transformers, name).from_pretrained(source).eval()
    full = "attention_mask" not in tokenizer.model_input_names  # SigLIP reads its padding too
    given = tokenizer(list(texts), padding="max_length" if full else True, truncation=True, return_tensors="pt")
    mask = given["input_ids"] != tokenizer.pad_token_id if full else given["attention_mask"]
    with torch.no_grad():
        return {"texts": _mean(model(**given).last_hidden_state, mask)}
