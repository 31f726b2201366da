"""Exact search: against the whole matrix in numpy, with ties and duplicates, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlp_eval.embeddings import search
from vlp_eval.metrics.retrieval import rank_positives


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def coarse(seed: int, count: int, width: int = 6) -> NDArray[np.float32]:
    """Return unit rows from so few values that many are equal."""
    return unit(np.random.default_rng(seed).integers(0, 2, (count, width)) * 2.0 - 1)


@pytest.mark.parametrize("budget", [4 * 70, 4 * 70 * 7, 1 << 20])
def test_ranks_equal_those_of_the_whole_matrix(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BUDGET", budget)
    rng = np.random.default_rng(0)
    queries, gallery = coarse(1, 40), coarse(2, 70)
    of_gallery = rng.integers(0, 25, 70)
    of_queries = of_gallery[rng.integers(0, 70, 40)]
    found = search.rank(queries, gallery, of_queries, of_gallery)
    whole = rank_positives(queries @ gallery.T, of_queries[:, None] == of_gallery)
    for name in ("above", "level", "level_positives", "before", "positives"):
        assert (getattr(found, name) == getattr(whole, name)).all(), name


def test_a_query_without_an_answer_is_an_error() -> None:
    rows = coarse(0, 4)
    with pytest.raises(ValueError, match="2 queries have no positive"):
        search.rank(rows, rows, np.array([0, 1, 8, 9]), np.arange(4))


@pytest.mark.parametrize("rows", [coarse(5, 400, 9), unit(np.random.default_rng(5).standard_normal((400, 9)))])
def test_the_first_k_equal_a_full_sort(rows: NDArray[np.float32]) -> None:
    queries = rows[:50]
    found, scores = search.top(queries, rows, 10)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(np.arange(400), exact.shape), -np.round(exact, 12)), axis=1)[:, :10]
    assert (found == order).all()
    assert np.allclose(scores, np.take_along_axis(exact, order, 1))


def test_a_gallery_smaller_than_k_is_returned_whole() -> None:
    rows = coarse(0, 3)
    found, _ = search.top(rows, rows, 10)
    assert found.shape == (3, 3)


@pytest.mark.parametrize("budget", [4 * 50 * 3, 1 << 20])
def test_true_recall_counts_every_positive(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ties: the mean over many random orders of the gallery, and the first in its own order."""
    monkeypatch.setattr(search, "BUDGET", budget)
    rng = np.random.default_rng(0)
    queries, gallery = coarse(1, 20, 4), coarse(2, 50, 4)  # products of +-1/2, so that ties are exact
    of_gallery = rng.integers(0, 8, 50)
    of_queries = of_gallery[rng.integers(0, 50, 20)]
    ks = (1, 4, 10, 80)
    right, scores = of_queries[:, None] == of_gallery, queries @ gallery.T
    draws = []
    for _ in range(3000):
        order = np.argsort(-(scores + 1e-5 * rng.random(scores.shape)), axis=1)
        draws.append(np.cumsum(np.take_along_axis(right, order, 1), axis=1)[:, [0, 3, 9, 49]])
    expected = search.found(queries, gallery, of_queries, of_gallery, ks)
    assert np.abs(np.mean(draws, axis=0) - expected).max() < 0.08
    low = search.found(queries, gallery, of_queries, of_gallery, ks, "pessimistic")
    high = search.found(queries, gallery, of_queries, of_gallery, ks, "optimistic")
    assert (low == np.min(draws, axis=0)).mean() > 0.9 and (low <= np.min(draws, axis=0)).all()
    assert (high == np.max(draws, axis=0)).mean() > 0.9 and (high >= np.max(draws, axis=0)).all()
    first = np.argsort(-scores, axis=1, kind="stable")
    inside = np.cumsum(np.take_along_axis(right, first, 1), axis=1)[:, [0, 3, 9, 49]]
    assert (search.found(queries, gallery, of_queries, of_gallery, ks, "index") == inside).all()
    assert (expected[:, -1] == right.sum(1)).all()


def test_search_by_class_is_that_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision at k and average precision of images that never find their own patient, in blocks of a few rows."""
    from sklearn.metrics import average_precision_score

    from vlp_eval.tasks.retrieval.by_class import Side
    from vlp_eval.tasks.retrieval.by_class import search as search_by_class

    monkeypatch.setattr(search, "BUDGET", 4 * 8 * 40 * 7)
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((40, 6))).astype(np.float64)
    classes, patient = rng.random((40, 3)) < 0.4, rng.integers(0, 15, 40)
    side = Side(rows, classes, patient)
    found = search_by_class(side, side, (1, 5))
    precision = dict(zip(found.ks, found.values.T[:-1], strict=True))
    shared = classes.astype(int) @ classes.T.astype(int) > 0
    others = patient[:, None] != patient
    wanted = [one for one in range(40) if (shared[one] & others[one]).any()]
    assert found.keep.tolist() == wanted
    for at, one in enumerate(wanted):
        allowed = np.flatnonzero(others[one])
        order = allowed[np.argsort(-(rows[allowed] @ rows[one]))]
        assert precision[5][at] == shared[one, order[:5]].mean() and precision[1][at] == shared[one, order[0]]
        exact = average_precision_score(shared[one, allowed], rows[allowed] @ rows[one])
        assert found.values[at, -1] == pytest.approx(exact)
    assert found.chance == pytest.approx((shared & others)[wanted].sum() / others[wanted].sum())


@pytest.mark.parametrize("budget", [4 * 60 * 3, 1 << 20])
def test_candidates_of_several_groups_count_for_each(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BUDGET", budget)
    rng = np.random.default_rng(0)
    queries, gallery = coarse(1, 30), coarse(2, 60)
    member = rng.random((60, 9)) < 0.2
    member[:9] |= np.eye(9, dtype=bool)
    asked = rng.integers(0, 9, 30)
    rows, groups = np.nonzero(member)
    mixed = rng.permutation(len(rows))
    found = search.rank(queries, gallery, asked, groups[mixed], rows_of_groups=rows[mixed])
    right = member[:, asked].T
    whole = rank_positives(queries @ gallery.T, right)
    for name in ("above", "level", "level_positives", "before", "positives"):
        assert (getattr(found, name) == getattr(whole, name)).all(), name
    counts = search.found(queries, gallery, asked, groups[mixed], (5, 60), "index", rows[mixed])
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")
    assert (counts[:, 0] == np.take_along_axis(right, order, 1)[:, :5].sum(1)).all()
    assert (counts[:, 1] == right.sum(1)).all()
