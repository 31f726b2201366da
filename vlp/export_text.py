"""The text tower alone, as a transformers model: to condition a diffusion model, or to embed reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .export import CannotExpress
from .export_image import _plain

if TYPE_CHECKING:
    from .hub import Pretrained


def write(loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
    """Write the tower and its tokenizer; raises CannotExpress for those that transformers cannot build."""
    tower: Any = loaded.model.text_tower
    if tower.kind != "hf" or loaded.tokenizer.kind != "hf":
        raise CannotExpress(
            f"transformers has no text tower of kind {tower.kind!r} with a tokenizer of kind {loaded.tokenizer.kind!r}: "
            "export with --format onnx or vlp"
        )
    _plain(tower.model)
    tower.model.save_pretrained(folder)
    for name, content in loaded.tokenizer.files().items():
        (folder / name).write_bytes(content)
    return ["the tower's own token states, before the projection head"]


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


def load(folder: Path, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the tower with transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, truncation=True, return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    return {"texts": _mean(states, given["attention_mask"])}
