"""Kernels of 2-D networks in 3-D ones: spread along depth, of windows instead of colours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["centre", "mean"]
COLOURS = (1, 3)


def inflate(value: Tensor, shape: torch.Size, rule: Rule, is_patch: bool) -> Tensor | None:
    """Return a kernel [O, I, h, w] or [O, I, d, h, w] in the 5-dimensional `shape`, None where no allowed change leads there.

    Along depth it is put into the middle plane (`centre`) or repeated and divided (`mean`): both give the 2-D response on
    what is constant along depth. A patch embedding is also resampled in plane. Colours become windows by their sum, shared
    out equally: the response to a grey image is kept.
    """
    if value.shape[0] != shape[0]:
        return None
    if value.shape[1] != shape[1]:
        if value.shape[1] not in COLOURS:
            return None
        value = value.sum(1, keepdim=True).expand(-1, shape[1], *value.shape[2:]) / shape[1]
    if value.dim() == 5:
        return value if value.shape == shape else None
    if value.shape[2:] != shape[3:]:
        if not is_patch:
            return None
        from timm.layers import resample_patch_embed

        value = resample_patch_embed(value.float(), list(shape[3:]))
    depth = shape[2]
    if rule == "mean" or depth % 2 == 0:
        return value.unsqueeze(2).expand(shape) / depth
    inflated = value.new_zeros(shape)
    inflated[:, :, depth // 2] = value
    return inflated
