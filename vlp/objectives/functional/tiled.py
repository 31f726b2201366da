"""Sums over all pairs of two sets of vectors that never hold the matrix of pairs.

The forward walks over tiles of the similarity matrix and keeps only per-row and per-column results; the backward walks
over them again. Memory is a few tiles, whatever N is; the work is 4 matrix products (an ordinary InfoNCE that forms both
directions' logits pays 6). Gradients are exact, first order only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .positives import PositiveRelation, itself

TILE_ROWS, TILE_COLUMNS = 512, 4096
"""Pairs looked at together: 2 million, 8 MiB in fp32; small enough for a cache, large enough for a matrix product."""

MASKED = -1e9
"""A logit that no softmax sees; finite, since 0 * -inf is NaN."""


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles of a [rows, columns] matrix, columns fastest."""
    for low in range(0, rows, TILE_ROWS):
        for left in range(0, columns, TILE_COLUMNS):
            yield slice(low, min(low + TILE_ROWS, rows)), slice(left, min(left + TILE_COLUMNS, columns))


def _weights(relation: PositiveRelation | None, start: int, rows: slice, columns: slice, like: Tensor) -> Tensor:
    """Return the positives' weights in a tile; without a relation, 1 where own row + start is the column."""
    if relation is not None:
        return relation.block(rows, columns, like)
    return itself(rows, columns, start, like).to(like.dtype)


def _holds_positives(relation: PositiveRelation | None, start: int, rows: slice, columns: slice) -> bool:
    return relation is not None or (rows.start + start < columns.stop and columns.start < rows.stop + start)


class LogSumExp(torch.autograd.Function):
    """Per-row and per-column log-sum-exp of scaled similarities, for several scales in one pass, and the own similarities.

    The own pairs' products are here because their gradients start the sums of the others': two [N, D] less.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scales: Tensor, relation: PositiveRelation | None, start: int, exclude: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return `[K, n]` and `[K, m]`: log-sum-exp over the other side of `scales[k] * a @ b.T`; and `[n]`, own products.

        `a` [n, D], `b` [m, D], `scales` [K]; row i of `a` belongs to row `start + i` of `b`. With `exclude`, positives
        (by `relation`, or the diagonal) are left out of the sums; a row with nothing left gets about `MASKED`.
        """
        n, m = a.shape[0], b.shape[0]
        factors = scales.unbind()
        by_row = a.new_full((len(factors), n), -torch.inf)
        by_column = a.new_full((len(factors), m), -torch.inf)
        for rows, columns in tiles(n, m):
            similarity = a[rows] @ b[columns].T
            hide = None
            if exclude and _holds_positives(relation, start, rows, columns):
                hide = _weights(relation, start, rows, columns, similarity) > 0
            for index, factor in enumerate(factors):
                logits = similarity * factor
                if hide is not None:
                    logits.masked_fill_(hide, MASKED)
                sums = by_row[index, rows], by_column[index, columns]
                for total, more in zip(sums, _tile_log_sums(logits), strict=True):
                    torch.logaddexp(total, more, out=total)
        ctx.save_for_backward(a, b, scales, by_row, by_column)
        ctx.relation, ctx.start, ctx.exclude = relation, start, exclude
        return by_row, by_column, torch.linalg.vecdot(a, b[start : start + n])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_row, grad_column, grad_own = grads
        a, b, scales, by_row, by_column = ctx.saved_tensors
        own = slice(ctx.start, ctx.start + a.shape[0])
        grad_a, grad_b = b[own] * grad_own[:, None], torch.zeros_like(b)
        torch.mul(a, grad_own[:, None], out=grad_b[own])
        grad_scales = torch.zeros_like(scales)
        factors = scales.unbind()
        single = len(factors) == 1
        for rows, columns in tiles(a.shape[0], b.shape[0]):
            similarity = a[rows] @ b[columns].T
            hide = None
            if ctx.exclude and _holds_positives(ctx.relation, ctx.start, rows, columns):
                hide = _weights(ctx.relation, ctx.start, rows, columns, similarity) > 0
            slope: Tensor | None = None
            for index, factor in enumerate(factors):
                part = _tile_slope(
                    similarity * factor,
                    by_row[index, rows],
                    by_column[index, columns],
                    grad_row[index, rows],
                    grad_column[index, columns],
                )
                if hide is not None:
                    part.masked_fill_(hide, 0.0)
                if not single and ctx.needs_input_grad[2]:
                    grad_scales[index] += (part * similarity).sum()
                part.mul_(factor)
                slope = part if slope is None else slope.add_(part)
            assert slope is not None
            step = slope @ b[columns]
            if single and ctx.needs_input_grad[2]:
                grad_scales[0] += (step * a[rows]).sum() / factors[0]  # sum of slope * similarity, without another pass
            grad_a[rows] += step
            grad_b[columns].addmm_(slope.T, a[rows])
        return grad_a, grad_b, grad_scales, None, None, None


def _tile_log_sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tile's log-sum-exp by row and by column, from one exponential where the range of values allows it."""
    if logits.is_cuda:  # the check below would make the device wait
        return torch.logsumexp(logits, 1), torch.logsumexp(logits, 0)
    top = logits.amax()
    powers = (logits - top).exp_()
    row, column = powers.sum(1), powers.sum(0)
    # Entries below exp(-87) of the tile's largest vanish: harmless unless a whole row or column is that small.
    if min(float(row.min()), float(column.min())) > 1e-20:
        return row.log_().add_(top), column.log_().add_(top)
    return torch.logsumexp(logits, 1), torch.logsumexp(logits, 0)


def _tile_slope(logits: Tensor, row: Tensor, column: Tensor, grad_row: Tensor, grad_column: Tensor) -> Tensor:
    """Return `grad_row * softmax by row + grad_column * softmax by column` of a tile; overwrites `logits`."""
    top = logits.amax()
    if not logits.is_cuda and float(top - row.amin()) < 60 and float(top - column.amin()) < 60:
        powers = logits.sub_(top).exp_()
        slope = powers * (grad_row * (top - row).exp())[:, None]
        return slope.addcmul_(powers, (grad_column * (top - column).exp())[None])
    slope = (logits - row[:, None]).exp_().mul_(grad_row[:, None])
    return slope.add_(logits.sub_(column).exp_().mul_(grad_column))


class PositiveSums(torch.autograd.Function):
    """Weighted sums of each row's similarities to its positives."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, relation: PositiveRelation) -> Tensor:
        """Return `[n]`: sums of `relation * (a @ b.T)` over the rows of `b`."""
        by_row = a.new_zeros(a.shape[0])
        for rows, columns in tiles(a.shape[0], b.shape[0]):
            by_row[rows] += relation.block(rows, columns, a).mul_(a[rows] @ b[columns].T).sum(1)
        ctx.save_for_backward(a, b)
        ctx.relation = relation
        return by_row

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        for rows, columns in tiles(a.shape[0], b.shape[0]):
            slope = ctx.relation.block(rows, columns, a).mul_(grads[0][rows, None])
            grad_a[rows] += slope @ b[columns]
            grad_b[columns].addmm_(slope.T, a[rows])
        return grad_a, grad_b, None


class SigmoidSum(torch.autograd.Function):
    """The sigmoid loss summed over all pairs; its gradient is made in the forward walk, where the tiles are at hand."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, relation: PositiveRelation | None, start: int
    ) -> Tensor:
        """Return `sum log(1 + exp(-y z))` with `z = scale * a @ b.T + bias` and y = 1 on positives, else -1; 0-dim.

        `start` as in `LogSumExp`; `start < 0` says that no pair is positive.
        """
        wants = any(ctx.needs_input_grad[:4])
        grad_a, grad_b = (torch.zeros_like(a), torch.zeros_like(b)) if wants else (a, b)
        grad_scale, grad_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64 if a.device.type != "mps" else a.dtype, device=a.device)
        for rows, columns in tiles(a.shape[0], b.shape[0]):
            z = torch.addcmul(bias, a[rows] @ b[columns].T, scale)
            total += F.softplus(z).sum()
            hold = start >= 0 and _holds_positives(relation, start, rows, columns)
            positive = _weights(relation, start, rows, columns, z) if hold else None
            if positive is not None:
                total -= (positive * z).sum()  # softplus(-z) = softplus(z) - z
            if wants:
                slope = z.sigmoid_()
                if positive is not None:
                    slope -= positive
                step = slope @ b[columns]
                grad_scale += (step * a[rows]).sum()
                grad_bias += slope.sum()
                grad_a[rows] += step
                grad_b[columns].addmm_(slope.T, a[rows])
        if wants:
            grad_a.mul_(scale)
            grad_b.mul_(scale)
            ctx.save_for_backward(grad_a, grad_b, grad_scale, grad_bias)
        return total.to(a.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grads[0] * saved for saved in ctx.saved_tensors), None, None)
