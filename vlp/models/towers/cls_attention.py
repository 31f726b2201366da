"""The attention of the class token, recorded without the memory of the whole matrix."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import at_least_single


class ClsAttention:
    """Records, in the last layer, how much the first token attends to every other, averaged over heads, detached.

    Only that layer's attention function is exchanged: the output stays the fused kernel's, and the weights of the one
    query cost L per head, not L x L.
    """

    NAME = "vlp_first_token"

    def __init__(self, model: nn.Module) -> None:
        from transformers import AttentionInterface

        self.module: Any = None
        for module in model.modules():
            found = getattr(module, "config", None)
            if type(module).__name__.endswith("Attention") and getattr(found, "_attn_implementation", None) == "sdpa":
                self.module = module
        if self.module is None:
            return
        AttentionInterface.register(self.NAME, _attend)
        self.shared = self.module.config
        self.module.config = copy.deepcopy(self.shared)
        self.module.config._attn_implementation = self.NAME

    def remove(self) -> None:
        """Give the layer its attention function back."""
        if self.module is not None:
            self.module.config, self.module = self.shared, None

    def take(self) -> Tensor | None:
        """Return what the last forward recorded [B, L]."""
        return None if self.module is None else self.module.__dict__.pop("first_token_attention", None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.no_grad():
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        logits = (at_least_single(query[:, :, :1]) @ at_least_single(key).transpose(-1, -2)) * scale
        if attention_mask is not None:
            row = attention_mask[:, :, :1]
            blocked = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~row, blocked) if row.dtype == torch.bool else logits + row
        module.__dict__["first_token_attention"] = logits.softmax(-1).mean(1).squeeze(1)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None
