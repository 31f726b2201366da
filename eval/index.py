"""Exact search in bounded memory: ranks of positives and the first k, by blocks of queries; faiss gives the same answer.

No approximation anywhere. A block of queries sees the whole gallery at once, so that a positive and its rivals come out of
the same product, and equal scores are equal.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .metrics.retrieval import Ranks

Floats = NDArray[np.float32]
BUDGET = 64 << 20
"""Bytes of one block of similarities."""


def blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Yield slices of queries whose similarities with the gallery fit the budget."""
    rows = max(1, BUDGET // (4 * max(1, gallery)))
    for start in range(0, queries, rows):
        yield slice(start, min(queries, start + rows))


def rank(
    queries: Floats,
    gallery: Floats,
    query_group: NDArray[np.int64],
    gallery_group: NDArray[np.int64],
    own: NDArray[np.int64] | None = None,
) -> Ranks:
    """Return where each query's best positive stands; candidates of its group are its positives.

    Rows are unit vectors float32 [Q, D] and [G, D]; groups int64 [Q], [G]. `own` [Q] is the gallery row that is the query
    itself (-1: none), which is left out. Raises ValueError when a query has no positive.
    """
    order = np.argsort(gallery_group, kind="stable")
    ranked = gallery_group[order]
    first, last = np.searchsorted(ranked, query_group, "left"), np.searchsorted(ranked, query_group, "right")
    missing = last - first
    if own is not None:
        missing = missing - (own >= 0)
    if (missing < 1).any():
        raise ValueError(f"{int((missing < 1).sum())} queries have no positive in the gallery")
    above = np.empty(len(queries), np.int64)
    level, level_positives, before = above.copy(), above.copy(), above.copy()
    across = np.ascontiguousarray(gallery.T)
    for block in blocks(len(queries), len(gallery)):
        scores = queries[block] @ across
        rows = np.arange(len(scores))
        if own is not None:
            there = own[block] >= 0
            scores[rows[there], own[block][there]] = -np.inf
        counts = (last - first)[block]
        row_of = np.repeat(rows, counts)
        place = order[
            np.repeat(first[block], counts) + np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        ]
        of_positives = scores[row_of, place]
        starts = np.cumsum(counts) - counts
        best = np.maximum.reduceat(of_positives, starts)
        tied = of_positives == best[row_of]
        above[block] = np.count_nonzero(scores > best[:, None], axis=1)
        at_least = np.count_nonzero(scores >= best[:, None], axis=1)
        level[block] = at_least - above[block]
        level_positives[block] = np.add.reduceat(tied.astype(np.int64), starts)
        before[block] = 0
        for row in np.flatnonzero(level[block] > level_positives[block]):
            mine = place[row_of == row]
            winners = mine[scores[row, mine] == best[row]]
            equal = np.flatnonzero(scores[row] == best[row])
            before[block.start + row] = int((equal < winners.min()).sum() - (winners < winners.min()).sum())
    return Ranks(above, level, level_positives, before, missing.astype(np.int64))


def top(
    queries: Floats, gallery: Floats, k: int, own: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], Floats]:
    """Return the first k gallery rows of each query [Q, k] and their scores; equal scores in the order of the gallery.

    `own` as in `rank`. With faiss installed its flat index proposes k + some candidates, scored again here, so that the
    answer is the same with and without it.
    """
    extra = 0 if own is None else 1
    count = min(k, len(gallery) - extra)
    rows = np.empty((len(queries), count), np.int64)
    values = np.empty((len(queries), count), np.float32)
    across = np.ascontiguousarray(gallery.T)
    for block in blocks(len(queries), len(gallery)):
        scores = queries[block] @ across
        if own is not None:
            there = own[block] >= 0
            scores[np.flatnonzero(there), own[block][there]] = -np.inf
        rows[block], values[block] = _first(scores, count)
    return rows, values


def _first(scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the columns of the k largest of each row, equal ones by column, without sorting the rest."""
    if k >= scores.shape[1]:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(scores, order, axis=1)
    edge = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    rows = np.empty((len(scores), k), np.int64)
    for row, bound in enumerate(edge):
        certain = np.flatnonzero(scores[row] > bound)
        equal = np.flatnonzero(scores[row] == bound)[: k - len(certain)]
        chosen = np.concatenate([certain, equal])
        rows[row] = chosen[np.lexsort((chosen, -scores[row, chosen]))]
    return rows, np.take_along_axis(scores, rows, axis=1)


def have_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def top_faiss(queries: Floats, gallery: Floats, k: int, margin: int = 32) -> tuple[NDArray[np.int64], Floats]:
    """Return what `top` returns, searched by faiss's exact flat index.

    faiss sums in another order than numpy and orders ties freely: `margin` more candidates than k are taken, scored again
    as `top` scores them, and ordered; a row whose last candidate ties with its k-th is searched again by `top`.
    """
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery))
    wide = min(len(gallery), k + margin)
    _, found = index.search(np.ascontiguousarray(queries), wide)
    count = min(k, len(gallery))
    rows, values = np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
    unsure = []
    for row, candidates in enumerate(found):
        chosen = np.sort(candidates)
        scores = gallery[chosen] @ queries[row]
        order = np.lexsort((chosen, -scores))
        rows[row], values[row] = chosen[order[:count]], scores[order[:count]]
        gaps = scores[order[: count + 1]]
        if (len(gallery) > wide and scores.min() >= values[row, -1] - 1e-5) or (np.abs(np.diff(gaps)) < 1e-6).any():
            unsure.append(row)
    if unsure:
        rows[unsure], values[unsure] = top(queries[unsure], gallery, k)
    return rows, values
