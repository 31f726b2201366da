"""Intervals against closed forms: exact coverage of a share, scipy's binomial test, every outcome of a sign flip."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from vlp_eval.bootstrap import Interval, draw, sign_flip
from vlp_eval.intervals import (
    Part,
    beta_bounds,
    effective,
    of_auroc,
    of_average_precision,
    of_draws,
    of_macro,
    of_mean,
    score_bounds,
)
from vlp_eval.metrics.ranking import Ranking, auroc, delong
from vlp_eval.tasks.retrieval.by_class import drawn_precisions


def of_answers(right: int, count: int) -> Interval:
    values = np.r_[np.ones(right), np.zeros(count - right)]
    found = of_mean(values, draw(np.arange(count), 200, 0))
    assert found is not None
    return found


@pytest.mark.parametrize(("count", "share"), [(60, 0.98), (60, 0.9), (40, 0.99), (90, 0.02), (100, 0.98), (200, 0.98)])
def test_an_accuracy_near_its_bound_is_covered(count: int, share: float) -> None:
    """The coverage is exact: over every number of right answers, weighed by how likely it is."""
    likely = stats.binom.pmf(np.arange(count + 1), count, share)
    covered = 0.0
    for right in np.flatnonzero(likely > 1e-7):
        found = of_answers(int(right), count)
        covered += likely[right] * (found.low <= share <= found.high)
    assert covered >= 0.93


def test_all_answers_right_is_no_certainty() -> None:
    found = of_answers(60, 60)
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 60)), 1.0)  # Clopper and Pearson's, in closed form
    assert found.method == "beta_patient" and not found.unreliable
    assert of_answers(3, 3).unreliable


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (3, 9), (58, 60)])
def test_bounds_of_a_share_are_scipys_exact_ones(right: int, count: int) -> None:
    oracle = stats.binomtest(right, count).proportion_ci(method="exact")
    assert beta_bounds(right / count, count) == pytest.approx((oracle.low, oracle.high))


def test_queries_of_a_patient_that_fail_together_count_once() -> None:
    patients = (np.arange(100) % 5 > 0).astype(float)
    owners = np.repeat(np.arange(100), 4)
    together, alone = np.repeat(patients, 4), np.tile(patients, 4)
    assert effective(patients, np.arange(100)) == pytest.approx(100, rel=0.02)
    assert effective(together, owners) == pytest.approx(100, rel=0.03)
    assert effective(np.random.default_rng(0).permutation(alone), owners) > 250
    wide = of_mean(together, draw(owners, 400, 0))
    narrow = of_mean(together, draw(np.arange(400), 400, 0))
    assert wide is not None and narrow is not None
    assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)


def test_an_undefined_value_is_left_out_and_a_mean_without_bounds_is_marked_when_few() -> None:
    values = np.r_[np.linspace(-3, 3, 12), np.nan]
    found = of_mean(values, draw(np.arange(13), 300, 0), bounded=False)
    assert found is not None and found.low < -0.1 and found.unreliable == "12 patients"
    assert of_mean(values, draw(np.arange(13), 0, 0)) is None  # no resamples were asked for


def test_score_bounds_are_where_the_test_just_rejects() -> None:
    value, positive, negative = 0.9, 6, 80
    low, high = score_bounds(value, positive, negative, 0.0)

    def variance(area: float) -> float:
        first, second = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley and McNeil's Q1 and Q2
        sides = [
            area * (1 - area) + (a - 1) * (first - area**2) + (b - 1) * (second - area**2)
            for a, b in ((positive, negative), (negative, positive))
        ]
        return max(sides) / (positive * negative)

    for bound in (low, high):
        assert abs(bound - value) == pytest.approx(1.96 * variance(bound) ** 0.5, abs=2e-3)
    assert score_bounds(1.0, 5, 95, 0.0)[1] == 1 and 0.6 < score_bounds(1.0, 5, 95, 0.0)[0] < 0.9
    inverted = score_bounds(1 - value, positive, negative, 0.0)
    assert inverted == pytest.approx((1 - high, 1 - low), abs=1e-3)


def test_an_auroc_of_few_positives_is_wide_and_of_many_is_delongs() -> None:
    rng = np.random.default_rng(3)
    for count, share in ((100, 0.05), (2000, 0.5)):
        labels = (np.arange(count) < share * count).astype(np.int64)
        scores = rng.normal(2 * labels)
        drawn = draw(np.arange(count), 1000, 0)
        draws, value = Ranking.of(labels, scores).auroc(drawn.weights), auroc(labels, scores)
        assert value is not None
        found, oracle = of_auroc(value, labels, draws, drawn), delong(labels, np.stack([scores, scores]))
        assert found is not None and oracle is not None
        if share < 0.5:
            assert found.method == "score_patient" and found.high - found.low > 0.15
        else:
            assert found.method == "bootstrap_patient"
            half = 1.959963984540054 * np.sqrt(oracle.covariance[0, 0])
            assert (found.low, found.high) == pytest.approx((value - half, value + half), abs=0.004)
    few = np.r_[np.ones(3), np.zeros(50)].astype(np.int64)
    drawn = draw(np.arange(53), 200, 0)
    ranking = Ranking.of(few, rng.normal(few))
    area = of_auroc(0.8, few, ranking.auroc(drawn.weights), drawn)
    assert area is not None and area.unreliable == "3 patients on one side"
    precision = of_average_precision(0.5, few, ranking.average_precision(drawn.weights), drawn)
    assert precision is not None and (precision.low, precision.high) == pytest.approx(beta_bounds(0.5, 3))


def test_a_mean_over_classes_is_as_wide_as_its_classes_are_together() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 4000))
    parts = [Part(0.9, 0.9 + 0.01 * one, Interval(0.7, 1.0, 0.9, 0.01, 4000, 0, "score_patient")) for one in rows]
    alone, both = of_macro(parts[:1]), of_macro(parts)
    assert alone is not None and both is not None
    assert (alone.low, alone.high, alone.method) == (pytest.approx(0.7), pytest.approx(1.0), "score_patient")
    assert both.method == "mover_patient"
    assert 0.9 - both.low == pytest.approx(0.2 / 2**0.5, rel=0.03)  # independent: a root of two narrower
    same = of_macro([parts[0], parts[0]])
    assert same is not None and same.low == pytest.approx(0.7)  # one class twice: no narrower
    plain = [Part(0.9, one, Interval.of(0.9 + 0.01 * one)) for one in rows]
    found = of_macro(plain)
    assert found is not None and found.method == "bootstrap_patient"


def test_an_interval_that_few_errors_carry_is_marked() -> None:
    drawn = draw(np.arange(50), 200, 0)
    values = np.random.default_rng(0).normal(size=200)
    assert getattr(of_draws(values, drawn, 3), "unreliable", "") == "3 patients carry it"
    assert getattr(of_draws(np.ones(200), drawn, 50), "unreliable", "") == "all resamples agree"
    assert getattr(of_draws(values, drawn, 30), "unreliable", "x") == ""


def test_the_p_of_a_difference_is_that_of_all_exchanges_of_the_runs() -> None:
    differences, owners = np.array([0.4, 0.3, 0.2, 0.6, -0.1, 0.5, 0.0, 0.2]), np.array([0, 0, 1, 2, 3, 4, 5, 5])
    sums = np.bincount(owners, differences)
    signs = np.array(list(product((-1, 1), repeat=len(sums))))
    exact = float((np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12).mean())
    assert sign_flip(differences, owners, 20_000, 0) == pytest.approx(exact, abs=0.01)
    assert sign_flip(np.zeros(4), np.arange(4), 100, 0) == 1.0


def test_a_resampled_gallery_is_that_of_the_repeated_candidates() -> None:
    rng = np.random.default_rng(1)
    ranked = rng.random(12) < 0.4
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=30).astype(np.int32)
    found = drawn_precisions(ranked, weights, [1, 3, 5])
    for row, times in zip(found, weights, strict=True):
        written = np.repeat(ranked, times)
        for at, k in enumerate((1, 3, 5)):
            assert row[at] == pytest.approx(written[:k].sum() / k)
        # the average precision gives all copies of a candidate the precision behind the last of them
        ends = np.cumsum(times)
        hits = np.cumsum(ranked * times)
        total = (ranked * times).sum()
        oracle = sum(times[at] * hits[at] / ends[at] for at in range(12) if ranked[at] and times[at])
        assert np.isnan(row[3]) if not total else row[3] == pytest.approx(oracle / total)
