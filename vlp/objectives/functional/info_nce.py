"""The contrastive core: InfoNCE and its relatives over all ranks, dense when small, streaming when large.

Each rank compares its own images with the texts of all ranks, [b, N], and reads both directions from that one block: the
rows are complete, the columns' log-sum-exps are put together from the ranks' partial ones. So only texts are gathered,
and half the products of the usual two-sided form are computed. Vectors come in normalised, in fp32 or fp64.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vlp.core import distributed

from .positives import Relation, Rows
from .tiled import MASKED, LogSums, Pulls

STREAM_ABOVE = 1 << 22
"""Own rows x all columns above which the matrix of logits is no longer formed (2048 x 2048: 16 MiB)."""


def is_small(rows: int, columns: int) -> bool:
    """Return whether a matrix of logits of this size is formed as a whole."""
    return rows * columns <= STREAM_ABOVE


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a contrastive loss is made of, for K scales: b own rows, N columns (= texts of all ranks).

    `by_row` [K, b] and `by_column` [K, N] log-sum-exps of `scales[k] * similarity`; `pull_row` [b] and `pull_column` [b]
    weighted means of the *unscaled* similarities of own rows (as image, as text share) to their positives; `degree` [N]
    the total weight of each row's positives, None for 1.
    """

    by_row: Tensor
    by_column: Tensor
    pull_row: Tensor
    pull_column: Tensor
    degree: Tensor | None


def similarity_sums(
    image: Tensor,
    text: Tensor,
    scales: Tensor,
    rows: Rows,
    relation: Relation | None = None,
    *,
    exclude: bool = False,
    dense: bool | None = None,
) -> Sums:
    """Compare own images [b, D] with the texts [b, D] of all ranks, both of unit length.

    `exclude` leaves positives out of the log-sum-exps. `dense` overrides the choice by size (`STREAM_ABOVE`).
    `pull_column` sums, over own images, their part in the mean over each text's positives, so that the sum of
    `pull_column` over all ranks is the sum over all texts of the mean similarity to their positives.
    """
    texts = rows.gather(text)
    if dense is None:
        dense = is_small(image.shape[0], texts.shape[0])
    degree = relation.degree(image) if relation is not None else None
    if dense:
        similarity = image @ texts.T
        weights = None
        if relation is not None:
            weights = relation.block(slice(0, rows.count), slice(0, rows.total), similarity)
        logits = scales[:, None, None] * similarity
        if exclude:
            logits = logits.masked_fill(weights > 0 if weights is not None else diagonal(rows, similarity), MASKED)
        by_row, by_column = torch.logsumexp(logits, 2), torch.logsumexp(logits, 1)
        # Read off the matrix, so that distinct groups give the same bits as none.
        own = similarity[:, rows.start : rows.start + rows.count].diagonal()
        if weights is not None and degree is not None:
            pull = weights * similarity
            pull_row, pull_column = pull.sum(1) / degree[rows.start : rows.start + rows.count], (pull / degree).sum(1)
    else:
        by_row, by_column, own = LogSums.apply(image, texts, scales, relation, rows.start, exclude)
        if relation is not None and degree is not None:
            pull_row = Pulls.apply(image, texts, relation)[0] / degree[rows.start : rows.start + rows.count]
            pull_column = Pulls.apply(image, texts / degree[:, None], relation)[0]
    if relation is None:
        pull_row = pull_column = own
    return Sums(by_row, over_ranks(by_column), pull_row, pull_column, degree)


def diagonal(rows: Rows, like: Tensor) -> Tensor:
    """Return a bool mask [b, N], True where a column is the row's own text."""
    own = torch.arange(rows.start, rows.start + rows.count, device=like.device)
    return own[:, None] == torch.arange(rows.total, device=like.device)


def over_ranks(partial: Tensor) -> Tensor:
    """Put together the ranks' partial log-sum-exps of the same shape; differentiable."""
    return torch.logsumexp(distributed.gather(partial[None]), 0) if distributed.world() > 1 else partial


def info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    rows: Rows,
    relation: Relation | None = None,
    *,
    dense: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return this rank's shares of the image-to-text and the text-to-image cross-entropy, each a mean over all N rows.

    `image`, `text` [b, D] of unit length; `scale` 0-dim. With a relation, the target is spread over the positives in
    proportion to their weights (UniCL); without one, or with one that relates no two rows, it is the own pair.
    """
    sums = similarity_sums(image, text, scale.reshape(1), rows, relation, dense=dense)
    own = slice(rows.start, rows.start + rows.count)
    image_to_text = (sums.by_row[0] - scale * sums.pull_row).sum()
    text_to_image = sums.by_column[0, own].sum() - (scale * sums.pull_column).sum()
    return rows.share(image_to_text), rows.share(text_to_image)


def info_nce_of_logits(logits: Tensor, rows: Rows, relation: Relation | None = None) -> tuple[Tensor, Tensor]:
    """As `info_nce`, for logits [b, N] that are no product of two vectors (token-level similarities)."""
    own = slice(rows.start, rows.start + rows.count)
    by_row, by_column = torch.logsumexp(logits, 1), over_ranks(torch.logsumexp(logits, 0))
    if relation is None:
        pull_row = pull_column = logits[:, own].diagonal()
    else:
        degree = relation.degree(logits)
        pull = relation.block(slice(0, rows.count), slice(0, rows.total), logits) * logits
        pull_row, pull_column = pull.sum(1) / degree[own], (pull / degree).sum(1)
    return rows.share((by_row - pull_row).sum()), rows.share(by_column[own].sum() - pull_column.sum())
