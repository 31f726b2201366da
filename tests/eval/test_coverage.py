"""Simulations: how often a 95 % interval holds the truth, and how often two equal models seem to differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from vlp_eval.bootstrap import draw, sign_flip
from vlp_eval.intervals import Part, of_auroc, of_average_precision, of_macro, of_mean
from vlp_eval.metrics.ranking import Ranking, auroc, average_precision

Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
World = Callable[[np.random.Generator, int, int], Scores]
LEAST = 0.93


def binormal(area: float, spread: float = 1.0) -> World:
    """Return normal scores of positives and negatives with this AUROC; `spread`: the positives' deviation."""
    distance = stats.norm.ppf(area) * np.sqrt(1 + spread**2)
    return lambda rng, positive, negative: (rng.normal(distance, spread, positive), rng.normal(size=negative))


def exponential(area: float) -> World:
    """Return exponential scores with this AUROC: P(x > y) = l / (1 + l)."""
    scale = area / (1 - area)
    return lambda rng, positive, negative: (rng.exponential(scale, positive), rng.exponential(size=negative))


def auroc_coverage(world: World, truth: float, count: int, prevalence: float, runs: int, seed: int) -> float:
    rng, covered, total = np.random.default_rng(seed), 0, 0
    while total < runs:
        labels = (rng.random(count) < prevalence).astype(np.int64)
        if 0 < labels.sum() < count:
            positive, negative = world(rng, int(labels.sum()), int((labels == 0).sum()))
            scores = np.empty(count)
            scores[labels == 1], scores[labels == 0] = positive, negative
            drawn, value = draw(np.arange(count), 200, seed), auroc(labels, scores)
            assert value is not None
            found = of_auroc(value, labels, Ranking.of(labels, scores).auroc(drawn.weights), drawn)
            assert found is not None
            covered, total = covered + (found.low <= truth <= found.high), total + 1
    return covered / total


def answers(rng: np.random.Generator, patients: int, each: int, share: float, alike: float) -> NDArray[np.float64]:
    """Return right and wrong answers, `each` of a patient, whose correlation within a patient is `alike`."""
    scale = (1 - alike) / alike
    own = rng.beta(share * scale, (1 - share) * scale, patients)
    return (rng.random((patients, each)) < own[:, None]).astype(np.float64).ravel()


def mean_coverage(patients: int, each: int, share: float, alike: float, runs: int, seed: int) -> float:
    rng, owners = np.random.default_rng(seed), np.repeat(np.arange(patients), each)
    covered = 0
    for _ in range(runs):
        found = of_mean(answers(rng, patients, each, share, alike), draw(owners, 300, seed))
        assert found is not None
        covered += found.low <= share <= found.high
    return covered / runs


def map_scores(rng: np.random.Generator, patients: int, missed: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return overlaps like Dice of 1 to 4 phrases a patient, 0 for a share `missed` of patients, and whose they are."""
    owners = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    found, own = rng.random(patients) >= missed, rng.beta(4, 4, patients)
    return (found[owners] * rng.beta(8 * own[owners], 8 * (1 - own[owners]))).astype(np.float64), owners


def map_coverage(patients: int, missed: float, runs: int, seed: int) -> float:
    rng, covered = np.random.default_rng(seed), 0
    for _ in range(runs):
        values, owners = map_scores(rng, patients, missed)
        found = of_mean(values, draw(owners, 300, seed))
        assert found is not None
        covered += found.low <= 0.5 * (1 - missed) <= found.high
    return covered / runs


def significant(patients: int, each: int, share: float, alike: float, runs: int, seed: int) -> float:
    """Return how often two models that are right equally often, patient by patient, differ at the 5 % level."""
    rng, owners = np.random.default_rng(seed), np.repeat(np.arange(patients), each)
    past = 0
    for _ in range(runs):
        first, second = (answers(rng, patients, each, share, alike) for _ in range(2))
        past += sign_flip(second - first, owners, 400, seed) < 0.05
    return past / runs


def test_few_positives_and_queries_of_one_patient_are_covered() -> None:
    """The cases of the slow simulations, on few runs."""
    assert auroc_coverage(binormal(0.95), 0.95, 100, 0.05, 60, 1) >= 0.9
    assert mean_coverage(80, 4, 0.7, 0.6, 60, 3) >= 0.85
    assert significant(60, 4, 0.6, 0.5, 60, 5) <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 200])
@pytest.mark.parametrize(
    "world",
    [binormal(0.95), binormal(0.95, 2.0), binormal(0.95, 0.5), exponential(0.95)],
    ids=["normal", "wide", "narrow", "exponential"],
)
def test_an_auroc_of_few_positives_is_covered(world: World, count: int) -> None:
    assert auroc_coverage(world, 0.95, count, 0.05, 1000, 11) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("area", "count", "prevalence"), [(0.99, 100, 0.2), (0.85, 100, 0.1), (0.95, 400, 0.3), (0.97, 300, 0.3)]
)
def test_an_auroc_near_its_bound_is_covered(area: float, count: int, prevalence: float) -> None:
    assert auroc_coverage(binormal(area), area, count, prevalence, 600, 12) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.98])
@pytest.mark.parametrize("patients", [60, 150])
def test_four_queries_a_patient_are_covered(patients: int, share: float) -> None:
    assert mean_coverage(patients, 4, share, 0.5, 1000, 13) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_two_equal_models_rarely_differ(share: float) -> None:
    assert significant(100, 4, share, 0.5, 1000, 14) <= 0.07


@pytest.mark.slow
def test_means_over_classes_with_few_positives_are_covered() -> None:
    rng, covered, runs = np.random.default_rng(15), 0, 400
    for _ in range(runs):
        parts = []
        drawn = draw(np.arange(120), 200, 0)
        while len(parts) < 4:
            labels = (rng.random(120) < 0.06).astype(np.int64)
            if labels.sum() > 0:
                scores = rng.normal(stats.norm.ppf(0.93) * np.sqrt(2) * labels)
                draws, value = Ranking.of(labels, scores).auroc(drawn.weights), auroc(labels, scores)
                assert value is not None
                parts.append(Part(value, draws, of_auroc(value, labels, draws, drawn)))
        found = of_macro(parts)
        assert found is not None
        covered += found.low <= 0.93 <= found.high
    assert covered / runs >= LEAST


@pytest.mark.slow
def test_an_average_precision_of_few_positives_is_covered() -> None:
    """The truth is the mean over many samples of this size: the average precision of few is not unbiased."""
    rng = np.random.default_rng(16)

    def sample() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        labels = (np.arange(150) < 10).astype(np.int64)
        return labels, rng.normal(2.0 * labels)

    truth = float(np.mean([average_precision(*sample()) or 0 for _ in range(4000)]))
    drawn, covered, runs = draw(np.arange(150), 100, 0), 0, 500
    for _ in range(runs):
        labels, scores = sample()
        value = average_precision(labels, scores)
        assert value is not None
        draws = Ranking.of(labels, scores).average_precision(drawn.weights)
        found = of_average_precision(value, labels, draws, drawn)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered / runs >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "missed"), [(15, 0.4), (60, 0.1), (60, 0.8), (120, 0.4)])
def test_overlaps_of_maps_are_covered(patients: int, missed: float) -> None:
    """Dice, IoU and shares of phrases: many zeros, several phrases of a patient, unequally many."""
    assert map_coverage(patients, missed, 400, 17) >= LEAST - 0.01  # 400 runs know it to one in a hundred
