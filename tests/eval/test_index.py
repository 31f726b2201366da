"""Exact search: against the whole matrix in numpy, with ties and duplicates, in blocks of any size, with and without faiss."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlp_eval import index
from vlp_eval.metrics.retrieval import rank_positives


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def coarse(seed: int, count: int, width: int = 6) -> NDArray[np.float32]:
    """Return unit rows from so few values that many are equal."""
    return unit(np.random.default_rng(seed).integers(0, 2, (count, width)) * 2.0 - 1)


@pytest.mark.parametrize("budget", [4 * 70, 4 * 70 * 7, 1 << 20])
def test_ranks_equal_those_of_the_whole_matrix(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BUDGET", budget)
    rng = np.random.default_rng(0)
    queries, gallery = coarse(1, 40), coarse(2, 70)
    of_gallery = rng.integers(0, 25, 70)
    of_queries = of_gallery[rng.integers(0, 70, 40)]
    found = index.rank(queries, gallery, of_queries, of_gallery)
    whole = rank_positives(queries @ gallery.T, of_queries[:, None] == of_gallery)
    for name in ("above", "level", "level_positives", "before", "positives"):
        assert (getattr(found, name) == getattr(whole, name)).all(), name


def test_a_query_never_finds_itself() -> None:
    rows, group = coarse(3, 30), np.arange(30) // 3
    found = index.rank(rows, rows, group, group, own=np.arange(30))
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    same = group[:, None] == group
    np.fill_diagonal(same, False)
    whole = rank_positives(scores, same)
    assert (found.above == whole.above).all() and (found.positives == 2).all()
    nearest, _ = index.top(rows, rows, 5, own=np.arange(30))
    assert not (nearest == np.arange(30)[:, None]).any()


def test_a_query_without_an_answer_is_an_error() -> None:
    rows = coarse(0, 4)
    with pytest.raises(ValueError, match="2 queries have no positive"):
        index.rank(rows, rows, np.array([0, 1, 8, 9]), np.arange(4))


@pytest.mark.parametrize("use_faiss", [False, True])
@pytest.mark.parametrize("rows", [coarse(5, 400, 9), unit(np.random.default_rng(5).standard_normal((400, 9)))])
def test_the_first_k_equal_a_full_sort(use_faiss: bool, rows: NDArray[np.float32]) -> None:
    if use_faiss and not index.have_faiss():
        pytest.skip("faiss is not installed (the extras cpu and gpu bring it)")
    queries = rows[:50]
    found, scores = index.top(queries, rows, 10, use_faiss=use_faiss)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(np.arange(400), exact.shape), -np.round(exact, 12)), axis=1)[:, :10]
    assert (found == order).all()
    assert np.allclose(scores, np.take_along_axis(exact, order, 1))


def test_a_gallery_smaller_than_k_is_returned_whole() -> None:
    rows = coarse(0, 3)
    found, _ = index.top(rows, rows, 10)
    assert found.shape == (3, 3)
