"""Batch normalisation over the rows of all ranks, so that the number of processes does not change what is learnt.

Not a layer that models are built of: they have torch's (or timm's), and those of a model that several processes train
are made into this one, in place, with the same parameters, buffers and names. torch's own SyncBatchNorm refuses CPUs, and
on a GPU waits for the device in every layer.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.core import distributed
from vlp.models.heads import at_least_single

log = logging.getLogger("vlp")


class RanksBatchNorm(_BatchNorm):
    """Batch normalisation of [B, C, ...] with the statistics of all ranks' rows, exact in its gradients.

    `drop` and `act` are what timm's BatchNormAct2d does after it. Every rank calls it as often as the others.
    """

    drop: nn.Module
    act: nn.Module

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, features: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None or var is None:
            found = self._over_ranks(features)
        else:
            found = F.batch_norm(features, mean, var, self.weight, self.bias, eps=self.eps)
        for name in ("drop", "act"):
            if name in self._modules:
                found = self.get_submodule(name)(found)
        return found

    def _over_ranks(self, features: Tensor) -> Tensor:
        normal, mean, var, count = _Normalise.apply(features, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            seen = self.num_batches_tracked.to(self.running_mean.dtype)
            share = 1.0 / seen if self.momentum is None else self.momentum
            unbiased = var * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return normal  # type: ignore[no-any-return]


class _Normalise(torch.autograd.Function):
    """[B, C, ...] -> normalised, and mean [C], biased variance [C] and number of values a channel [1] of all ranks.

    One exchange of 2 C + 1 numbers in the forward and one of 2 C in the backward. The gradients of scale and shift are of
    this rank's rows: the engine averages them like all others.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = _dense(features)
        own_mean, own_var = _statistics(features, eps)
        channels = own_mean.numel()
        own_count = own_mean.new_full((1,), features.numel() // channels)
        every = distributed.gather(torch.cat([own_mean, own_var, own_count])).view(distributed.world(), -1)
        means, variances, counts = torch.split(every, [channels, channels, 1], dim=1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        ctx.save_for_backward(features, weight, mean, (var + eps).rsqrt(), counts)
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(features, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        features, weight, mean, scale, counts = ctx.saved_tensors
        grad = _dense(grads[0])
        sums, products, of_weight, of_bias = _reduce(grad, features, mean, scale, weight)
        sums, products = distributed.sum_over_ranks(torch.cat([sums, products])).chunk(2)
        of_features = _spread(grad, features, mean, scale, weight, sums, products, counts)
        return of_features, of_weight if weight is not None else None, of_bias if weight is not None else None, None


def _dense(features: Tensor) -> Tensor:
    is_channels_last = features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
    return features if is_channels_last else features.contiguous()


def _rows(features: Tensor) -> tuple[int, ...]:
    return (0, *range(2, features.ndim))


def _across(values: Tensor, features: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (features.ndim - 2))


def _statistics(features: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return this rank's mean and biased variance [C], at least fp32."""
    if features.is_cuda:
        mean, scale = torch.batch_norm_stats(features, eps)
        return mean, (scale.pow(-2) - eps).clamp(min=0)
    var, mean = torch.var_mean(at_least_single(features), _rows(features), correction=0)
    return mean, var


def _reduce(
    grad: Tensor, features: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return this rank's sums of dy and of dy (x - mean), and the gradients of weight and bias, each [C]."""
    if features.is_cuda:
        return torch.batch_norm_backward_reduce(grad, features, mean, scale, weight, True, True, True)
    grad, rows = at_least_single(grad), _rows(features)
    sums = grad.sum(rows)
    products = (grad * (at_least_single(features) - _across(mean, features))).sum(rows)
    return sums, products, products * scale, sums


def _spread(
    grad: Tensor,
    features: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    sums: Tensor,
    products: Tensor,
    counts: Tensor,
) -> Tensor:
    """Return the gradient of the features from the sums over all ranks."""
    if features.is_cuda:
        found: Tensor = torch.batch_norm_backward_elemt(
            grad, features, mean, scale, weight, sums, products, counts.to(torch.int32)
        )
        return found
    count = counts.sum()
    factor = scale if weight is None else scale * weight
    slope = products / count * scale.square()
    centred = at_least_single(features) - _across(mean, features)
    found = at_least_single(grad) - _across(sums / count, grad) - centred * _across(slope, grad)
    return (found * _across(factor, grad)).to(features.dtype)


def share_statistics(module: nn.Module) -> None:
    """Have every batch normalisation inside `module` use the rows of all ranks; does nothing for a single process.

    Frozen ones stay in eval mode and are the same as before. A subclass that has a forward of its own is left, with a
    warning: what it does over ranks is its own matter.
    """
    if distributed.world() == 1:
        return
    for name, part in module.named_modules():
        if not isinstance(part, _BatchNorm) or isinstance(part, RanksBatchNorm):
            continue
        plain = type(part).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        if plain or {"drop", "act"} <= part._modules.keys():
            part.__class__ = RanksBatchNorm  # in place: towers keep references to their parts
        else:
            log.warning(
                "%s: a %s is left as it is; unless it looks at the rows of all ranks, the result depends on their number",
                name,
                type(part).__name__,
            )
