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

from .positives import PositiveRelation, RankRows
from .tiled import MASKED, LogSumExp, PositiveSums

STREAM_ABOVE = 1 << 22
"""Own rows x all columns above which the matrix of logits is no longer formed (2048 x 2048: 16 MiB)."""


def is_small(rows: int, columns: int) -> bool:
    """Return whether a matrix of logits of this size is formed as a whole."""
    return rows * columns <= STREAM_ABOVE


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a contrastive loss is made of, for K scales: b own rows, N columns (= texts of all ranks).

    `by_row` [K, b] and `by_column` [K, N] log-sum-exps of `scales[k] * similarity`; `positive_row` [b] and
    `positive_column` [b] weighted means of the *unscaled* similarities of own rows (as image, as text share) to their
    positives.
    """

    by_row: Tensor
    by_column: Tensor
    positive_row: Tensor
    positive_column: Tensor


def similarity_sums(
    image: Tensor,
    text: Tensor,
    scales: Tensor,
    rows: RankRows,
    relation: PositiveRelation | None = None,
    *,
    exclude: bool = False,
) -> Sums:
    """Compare own images [b, D] with the texts [b, D] of all ranks, both of unit length.

    `exclude` leaves positives out of the log-sum-exps.
    `positive_column` sums, over own images, their part in the mean over each text's positives, so that the sum of
    `positive_column` over all ranks is the sum over all texts of the mean similarity to their positives.
    """
    texts = rows.gather(text)
    n_positives = relation.n_positives(image) if relation is not None else None
    if is_small(image.shape[0], texts.shape[0]):
        similarity = image @ texts.T
        weights = None if relation is None else relation.whole(similarity)
        logits = scales[:, None, None] * similarity
        if exclude:
            logits = logits.masked_fill(weights > 0 if weights is not None else rows.diagonal(similarity), MASKED)
        by_row, by_column = torch.logsumexp(logits, 2), torch.logsumexp(logits, 1)
        # Read off the matrix, so that distinct groups give the same bits as none.
        own = similarity[:, rows.own].diagonal()
        if weights is not None and n_positives is not None:
            pull = weights * similarity
            positive_row, positive_column = pull.sum(1) / n_positives[rows.own], (pull / n_positives).sum(1)
    else:
        by_row, by_column, own = LogSumExp.apply(image, texts, scales, relation, rows.start, exclude)
        if relation is not None and n_positives is not None:
            positive_row = PositiveSums.apply(image, texts, relation) / n_positives[rows.own]
            positive_column = PositiveSums.apply(image, texts / n_positives[:, None], relation)
    if relation is None:
        positive_row = positive_column = own
    return Sums(by_row, over_ranks(by_column), positive_row, positive_column)


def over_ranks(partial: Tensor) -> Tensor:
    """Put together the ranks' partial log-sum-exps of the same shape; differentiable."""
    return torch.logsumexp(distributed.gather(partial[None]), 0) if distributed.world() > 1 else partial


def info_nce(
    image: Tensor, text: Tensor, scale: Tensor, rows: RankRows, relation: PositiveRelation | None = None
) -> tuple[Tensor, Tensor]:
    """Return this rank's shares of the image-to-text and the text-to-image cross-entropy, each a mean over all N rows.

    `image`, `text` [b, D] of unit length; `scale` 0-dim. With a relation, the target is spread over the positives in
    proportion to their weights (UniCL); without one, or with one that relates no two rows, it is the own pair.
    """
    sums = similarity_sums(image, text, scale.reshape(1), rows, relation)
    image_to_text = (sums.by_row[0] - scale * sums.positive_row).sum()
    text_to_image = sums.by_column[0, rows.own].sum() - (scale * sums.positive_column).sum()
    return rows.share(image_to_text), rows.share(text_to_image)


def info_nce_of_logits(
    logits: Tensor, rows: RankRows, relation: PositiveRelation | None = None
) -> tuple[Tensor, Tensor]:
    """As `info_nce`, for logits [b, N] that are no product of two vectors (token-level similarities)."""
    by_row, by_column = torch.logsumexp(logits, 1), over_ranks(torch.logsumexp(logits, 0))
    if relation is None:
        positive_row = positive_column = logits[:, rows.own].diagonal()
    else:
        n_positives = relation.n_positives(logits)
        pull = relation.whole(logits) * logits
        positive_row, positive_column = pull.sum(1) / n_positives[rows.own], (pull / n_positives).sum(1)
    return rows.share((by_row - positive_row).sum()), rows.share(by_column[rows.own].sum() - positive_column.sum())
