"""Projection heads from a tower's features to the joint space, and pooling of word pieces into words."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.core.config import ConfigError, config
from vlp.core.distributed import sum_over_ranks


@config
class HeadConfig:
    """A projection head.

    `linear` (CLIP), `mlp` two layers with `activation` between (ConVIRT), `bn_mlp` two layers with batch normalisation
    after each, the last without scale and shift (MGCA), `none` for towers that project themselves. `hidden` is the
    tower's width unless given. `bias`: by default only mlp has one. `add_patches` (image head only): add the pooled
    patch embeddings to the global one.
    """

    kind: Literal["linear", "mlp", "bn_mlp", "none"] = "linear"
    hidden: int | None = None
    activation: Literal["relu", "gelu"] = "relu"
    bias: bool | None = None
    add_patches: Literal["max", "mean"] | None = None


def build_head(head: HeadConfig, width: int, dim: int, where: str) -> nn.Module:
    """Return the module [..., width] -> [..., dim]; raises ConfigError when `none` cannot join the two."""
    if head.kind == "none":
        if width != dim:
            raise ConfigError(f"{where}.kind is none, but the tower's width is {width} and model.dim is {dim}")
        return nn.Identity()
    if head.kind == "linear":
        return nn.Linear(width, dim, bias=bool(head.bias))
    hidden = head.hidden or width
    activation = nn.ReLU() if head.activation == "relu" else nn.GELU()
    if head.kind == "mlp":
        bias = head.bias is not False
        return nn.Sequential(nn.Linear(width, hidden, bias=bias), activation, nn.Linear(hidden, dim, bias=bias))
    first, last = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
    return NormalisedHead(first, BatchNorm(hidden), activation, last, BatchNorm(dim, affine=False))


class NormalisedHead(nn.Sequential):
    """Layers with batch normalisation among them, which is told the rows that count."""

    def forward(self, features: Tensor, real: Tensor | None = None) -> Tensor:
        for layer in self:
            features = layer(features, real) if isinstance(layer, BatchNorm) else layer(features)
        return features


def project(head: nn.Module, features: Tensor, real: Tensor | None) -> Tensor:
    """Return head(features) for rows [..., C] of which those outside `real` [...] count for nothing: padding, no text."""
    return cast(Tensor, head(features, real) if isinstance(head, NormalisedHead) else head(features))


class BatchNorm(nn.Module):
    """Batch normalisation of [..., C] over all leading axes, with the statistics of all ranks' rows together.

    Rows outside `real` [...] are normalised but not counted: how many there are is a matter of the longest text that a
    process happens to have.

    Two processes with half of the batch each give what one gives with all of it, gradients included; torch's
    SyncBatchNorm promises that on GPUs only. A loss over cached chunks cannot be exact with any batch normalisation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, affine: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: Tensor, real: Tensor | None = None) -> Tensor:
        rows = at_least_single(features.reshape(-1, features.shape[-1]))
        if self.training:
            counted = None if real is None else real.reshape(-1, 1).to(rows.dtype)
            own = rows.new_full((1,), float(rows.shape[0])) if counted is None else counted.sum().reshape(1)
            total = sum_over_ranks(own)
            count = total.clamp(min=1)
            mean = sum_over_ranks((rows if counted is None else rows * counted).sum(0)) / count
            spread = (rows - mean).square()
            var = sum_over_ranks((spread if counted is None else spread * counted).sum(0)) / count
            with torch.no_grad():
                unbiased = var * count / (count - 1).clamp(min=1)
                step = self.momentum * (total > 0).to(self.running_mean.dtype)  # a batch without any teaches nothing
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), step)
        else:
            mean, var = at_least_single(self.running_mean), at_least_single(self.running_var)
        normal = (
            F.batch_norm(rows, mean, var, eps=self.eps)
            if not self.training
            else (rows - mean) * (var + self.eps).rsqrt()
        )
        if self.weight is not None and self.bias is not None:
            normal = normal * self.weight + self.bias
        return normal.to(features.dtype).reshape(features.shape)


def at_least_single(tensor: Tensor) -> Tensor:
    """Return a tensor in single precision, or in the double precision that it has: sums are not taken in half."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
