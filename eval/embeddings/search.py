"""Exact search in bounded memory: ranks of positives by blocks of queries, and the first k of a few.

No approximation anywhere. A block of queries sees the whole gallery at once, so that a positive and its rivals come out of
the same product, and equal scores are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..metrics.retrieval import Ranks, Ties

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
BUDGET = 64 << 20
"""Bytes of one block of similarities."""


def blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Yield slices of queries whose similarities with the gallery fit the budget."""
    rows = max(1, BUDGET // (4 * max(1, gallery)))
    for start in range(0, queries, rows):
        yield slice(start, min(queries, start + rows))


def _scores(queries: Floats, across: Floats) -> Floats:
    """Return the product; of one query as of two, for BLAS sums a lone row so that equal columns may differ."""
    return queries @ across if len(queries) > 1 else (np.repeat(queries, 2, axis=0) @ across)[:1]


class _Positives:
    """The gallery rows of each query's group. `rows` [M]: whose group each of `gallery_group` [M] is, None for one each."""

    def __init__(self, query_group: Ints, gallery_group: Ints, rows: Ints | None) -> None:
        order = np.argsort(gallery_group, kind="stable")
        ranked = gallery_group[order]
        self._rows = order if rows is None else rows[order]
        self._first = np.searchsorted(ranked, query_group, "left")
        self.counts = np.searchsorted(ranked, query_group, "right") - self._first

    def of(self, block: slice) -> tuple[Ints, Ints, Ints]:
        """Return the positives of a block of queries: the query in the block and the gallery row of each, query by query,
        and where each query's begin.
        """
        counts = self.counts[block]
        starts = np.cumsum(counts) - counts
        query = np.repeat(np.arange(len(counts)), counts)
        place = self._rows[np.repeat(self._first[block] - starts, counts) + np.arange(len(query))]
        return query, place, starts


def rank(
    queries: Floats, gallery: Floats, query_group: Ints, gallery_group: Ints, rows_of_groups: Ints | None = None
) -> Ranks:
    """Return where each query's best positive stands; candidates of its group are its positives.

    Rows are unit vectors float32 [Q, D] and [G, D]; groups int64 [Q], [G]. Where candidates are of several groups,
    `gallery_group` [M] holds them all and `rows_of_groups` [M] the candidate of each. Raises ValueError when a query has no
    positive.
    """
    positives = _Positives(query_group, gallery_group, rows_of_groups)
    if (positives.counts < 1).any():
        raise ValueError(f"{int((positives.counts < 1).sum())} queries have no positive in the gallery")
    above, level, level_positives, before = np.zeros((4, len(queries)), np.int64)
    across = np.ascontiguousarray(gallery.T)
    for block in blocks(len(queries), len(gallery)):
        scores = _scores(queries[block], across)
        row_of, place, starts = positives.of(block)
        of_positives = scores[row_of, place]
        best = np.maximum.reduceat(of_positives, starts)
        tied = of_positives == best[row_of]
        above[block] = np.count_nonzero(scores > best[:, None], axis=1)
        level[block] = np.count_nonzero(scores == best[:, None], axis=1)
        level_positives[block] = np.add.reduceat(tied.astype(np.int64), starts)
        for row in np.flatnonzero(level[block] > level_positives[block]):
            mine = place[row_of == row]
            winners = mine[scores[row, mine] == best[row]]
            equal = np.flatnonzero(scores[row] == best[row])
            before[block.start + row] = int((equal < winners.min()).sum() - (winners < winners.min()).sum())
    return Ranks(above, level, level_positives, before, positives.counts.astype(np.int64))


def found(
    queries: Floats,
    gallery: Floats,
    query_group: Ints,
    gallery_group: Ints,
    ks: Sequence[int],
    ties: Ties = "expected",
    rows_of_groups: Ints | None = None,
) -> NDArray[np.float64]:
    """Return how many of each query's positives are among its first k, [Q, len(ks)]: a mean over tied orders if `expected`.

    Rows and groups as for `rank`. Divided by the number of positives this is true recall, by k precision.
    """
    result = np.empty((len(queries), len(ks)))
    cut = [min(k, len(gallery)) - 1 for k in ks]
    across = np.ascontiguousarray(gallery.T)
    positives = _Positives(query_group, gallery_group, rows_of_groups)
    for block in blocks(len(queries), len(gallery)):
        scores = _scores(queries[block], across)
        ordered = -np.partition(-scores, sorted(set(cut)), axis=1)[:, : max(cut) + 1]
        right = np.zeros(scores.shape, dtype=bool)
        right[positives.of(block)[:2]] = True
        for column, last in enumerate(cut):
            edge = ordered[:, last, None]
            level = scores == edge
            slots = last + 1 - (scores > edge).sum(1)
            tied, width = (level & right).sum(1), level.sum(1)
            sure = ((scores > edge) & right).sum(1)
            if ties == "index":
                part = (level & right & (np.cumsum(level, axis=1) <= slots[:, None])).sum(1)
            else:
                part = {
                    "expected": tied * slots / width,
                    "pessimistic": np.maximum(0, slots - (width - tied)),
                    "optimistic": np.minimum(slots, tied),
                }[ties]
            result[block, column] = sure + part
    return result


def top(queries: Floats, gallery: Floats, k: int) -> tuple[Ints, NDArray[np.float64]]:
    """Return the first k gallery rows of each query [Q, k] and their scores; equal scores in the order of the gallery.

    Products are of float64 and summed the same way for each row, so that equal rows have equal scores.
    """
    rows, scores = [], []
    for query in queries.astype(np.float64):
        parts = [(gallery[block] * query).sum(1) for block in blocks(len(gallery), 2 * gallery.shape[1])]
        found = np.concatenate(parts)
        order = np.argsort(-found, kind="stable")[:k]
        rows.append(order)
        scores.append(found[order])
    return np.stack(rows), np.stack(scores)
