"""The text tower alone, as a transformers model: to condition a diffusion model, or to embed reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import hf_processor
from .base import Embeddings, Exporter, Images, Texts, exporters

if TYPE_CHECKING:
    from vlp.hub import Pretrained


@exporters.register("text")
class TextTowerExporter(Exporter):
    """The text tower before its projection head."""

    summary = "the text tower alone, as a transformers model"
    library = "transformers"
    pipeline_tag = "feature-extraction"
    decodes_files = True
    usage = """from transformers import AutoModel, AutoTokenizer

tower, tokenizer = AutoModel.from_pretrained("{repo}"), AutoTokenizer.from_pretrained("{repo}")"""

    def write(self, loaded: Pretrained, folder: Path, approximate: bool) -> list[str]:
        tower = loaded.model.text_tower
        form = tower.as_transformers()
        hf_processor.write_tokenizer(loaded.tokenizer, folder, not form.reads_padding)
        tower.disable_attention_capture()
        form.model.save_pretrained(folder)
        notes = ["the tower's own token states (last_hidden_state), before the projection head"]
        if form.pooling != "pooler":
            notes.append(
                f"texts were pooled by {form.pooling} in training; a pooler_output, where there is one, is not"
            )
        if not form.by_auto:
            notes.append(f"AutoModel does not build this tower, transformers.{type(form.model).__name__} does")
        return notes

    def load(self, source: str, images: Images, texts: Texts, trust: Texts = ()) -> Embeddings:
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

    def expected(self, loaded: Pretrained, images: Images, texts: Texts) -> Embeddings:
        """Return the mean token state of each text, at unit length."""
        import torch

        tokens = loaded.tokenizer(list(texts)).tokens
        with torch.no_grad():
            return {"texts": _mean(loaded.model.text_tower(tokens).states, tokens.mask)}


def _mean(states: Any, mask: Any) -> np.ndarray:
    """Average token states [B, L, C] over real tokens, at unit length."""
    import torch

    real = mask.unsqueeze(-1)
    return np.asarray(torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=1))
