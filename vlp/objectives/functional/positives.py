"""Who is a positive of whom: the rows of a batch over all ranks, and the pairs that are no negatives of each other.

`diagonal` knows only an image and its own report. `group` also pairs samples of one study or with the same normalised
report, `label` samples whose present findings are the same set. Extra positives share the target evenly, as in UniCL
(Yang et al., CVPR 2022); pairs are symmetric, so one relation serves both directions.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from vlp.batch import Batch
from vlp.core import distributed
from vlp.sample import PRESENT, UNKNOWN

Positives = Literal["diagonal", "group", "label"]
BLOCK = 1 << 22
"""Pairs that are compared together where all of them are counted (16 MiB of weights)."""

NO_GROUP = 0
"""The group id of a row that belongs to none (no study, no report): it is equal to no other row's."""


@dataclasses.dataclass(frozen=True)
class RankRows:
    """This rank's rows among those of all ranks: `[start, start + count)` of `total`, on `world` ranks.

    `even` says, the same on every rank, whether all hold as many.
    """

    start: int
    count: int
    total: int
    world: int
    even: bool

    @classmethod
    def of(cls, batch: Batch, *, even: bool) -> RankRows:
        """Place this rank's rows; `even` promises batches of one size on all ranks, which saves an exchange.

        Of a set in which texts are missing the ranks compare as many rows as have one: their numbers are exchanged.
        """
        world, count = distributed.world(), len(batch)
        counts = [count] * world if even and batch.has_text is None else distributed.counts(count)
        return cls(
            start=sum(counts[: distributed.rank()]),
            count=count,
            total=sum(counts),
            world=world,
            even=len(set(counts)) == 1,
        )

    @property
    def own(self) -> slice:
        """Which of all rows are this rank's."""
        return slice(self.start, self.start + self.count)

    def diagonal(self, like: Tensor) -> Tensor:
        """Return a bool mask [count, total], True where a column is the row itself."""
        return itself(slice(0, self.count), slice(0, self.total), self.start, like)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return `tensor` [count, ...] of all ranks, [total, ...], differentiable."""
        return distributed.gather(tensor) if self.even else distributed.gather_uneven(tensor)[0]

    def share(self, own_sum: Tensor) -> Tensor:
        """Turn a sum over own rows into this rank's share of the mean over all rows; 0 where there are none."""
        return own_sum * (self.world / max(1, self.total))


def itself(own: slice, other: slice, start: int, like: Tensor) -> Tensor:
    """Return a bool mask [own, other], True where `start` plus the number of an own row is that of the other."""
    mine = torch.arange(own.start + start, own.stop + start, device=like.device)
    return mine[:, None] == torch.arange(other.start, other.stop, device=like.device)


@dataclasses.dataclass(frozen=True, eq=False)
class PositiveRelation:
    """Which of all N rows are positives of this rank's own rows; asked for in blocks, never held as a whole.

    Two ways to be related, by `ids` or by `present`. `ids` [N, C] int64: rows that agree in any column are related,
    `NO_GROUP` agrees with nothing. `present` [N, K] float of 0 and 1 with `known` [N] bool: rows with the same set are
    related, or, with `overlap`, related by their Jaccard index. A row is always related to itself, by weight 1.
    """

    rows: RankRows
    ids: Tensor | None = None
    present: Tensor | None = None
    known: Tensor | None = None
    overlap: bool = False

    def block(self, own: slice, other: slice, like: Tensor) -> Tensor:
        """Return the weights [own, other] of a block: `own` counts this rank's rows, `other` all rows; dtype of `like`."""
        start = self.rows.start
        mine = slice(own.start + start, own.stop + start)
        related = itself(own, other, start, like)
        if self.ids is not None:
            a, b = self.ids[mine], self.ids[other]
            for column in range(self.ids.shape[1]):
                one = a[:, column, None]
                related = related | ((one == b[None, :, column]) & (one != NO_GROUP))
            return related.to(like.dtype)
        if self.present is None or self.known is None:
            return related.to(like.dtype)
        a, b = self.present[mine], self.present[other]
        common = a @ b.T
        union = a.sum(1)[:, None] + b.sum(1) - common
        if self.overlap:
            # Two normal studies, both with an empty set, are alike.
            weight = torch.where(union > 0, common / union.clamp(min=1), torch.ones_like(union))
        else:
            weight = (common == union).to(union.dtype)
        weight = weight * (self.known[mine][:, None] & self.known[other]).to(weight.dtype)
        return torch.where(related, torch.ones_like(weight), weight).to(like.dtype)

    def whole(self, like: Tensor) -> Tensor:
        """Return the weights [count, total] of all pairs of this rank's rows."""
        return self.block(slice(0, self.rows.count), slice(0, self.rows.total), like)

    def n_positives(self, like: Tensor) -> Tensor:
        """Return each row's total weight [N], itself included."""
        return self.rows.gather(self._own_sums(like, weighted=True))

    def count(self, like: Tensor) -> Tensor:
        """Return how many positives each own row has [count], itself included."""
        return self._own_sums(like, weighted=False)

    def _own_sums(self, like: Tensor, *, weighted: bool) -> Tensor:
        step = max(1, BLOCK // max(1, self.rows.total))
        everything = slice(0, self.rows.total)
        pieces = []
        for low in range(0, self.rows.count, step):
            block = self.block(slice(low, min(low + step, self.rows.count)), everything, like)
            pieces.append((block if weighted else (block > 0).to(block.dtype)).sum(1))
        return torch.cat(pieces).detach() if pieces else like.new_zeros(0)


def relation(positives: Positives, batch: Batch, rows: RankRows) -> PositiveRelation | None:
    """Return who is a positive of whom in `batch` over all ranks; None for `diagonal`. `label` needs `Batch.labels`."""
    if positives == "diagonal":
        return None
    if positives == "group":
        return PositiveRelation(rows, ids=rows.gather(batch.group))
    return label_relation(batch, rows, overlap=False)


def label_relation(batch: Batch, rows: RankRows, *, overlap: bool) -> PositiveRelation:
    """Relate rows by the set of findings that `Batch.labels` calls present; a row with no known label only to itself."""
    assert batch.labels is not None  # Objective.check has seen them
    labels = rows.gather(batch.labels)
    return PositiveRelation(
        rows, present=(labels == PRESENT).float(), known=(labels != UNKNOWN).any(dim=1), overlap=overlap
    )


def needs_of(positives: Positives) -> frozenset[str]:
    """Return what the choice of positives needs from the batch."""
    return frozenset({"labels"}) if positives == "label" else frozenset()
