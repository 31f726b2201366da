"""Metrics against scikit-learn and brute force on random data, with ties."""

from functools import partial

import numpy as np
import pytest

from vlp_eval import bootstrap
from vlp_eval.metrics import calibration, decisions, grounding, ranking, retrieval


def close(value: object, expected: object, tolerance: float = 1e-15) -> bool:
    return np.allclose(np.asarray(value, float), np.asarray(expected, float), rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_pixels_are_ranked_as_scikit_learn_ranks_them(seed: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(seed)
    heat, truth = rng.integers(0, 20, (30, 40)).astype(np.float32) / 7, rng.random((30, 40)) < 0.2
    heat[:3] = np.nan
    seen = np.isfinite(heat)
    found = grounding.pixel_ranking(heat, truth)
    assert close(found, [f(truth[seen], heat[seen]) for f in (roc_auc_score, average_precision_score)])
    assert grounding.pixel_ranking(heat, np.zeros_like(truth)) is None


@pytest.mark.parametrize("seed", range(5))
def test_ranking_agrees_with_scikit_learn(seed: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(seed)
    y, s = rng.integers(0, 2, 200), rng.integers(0, 30, 200) / 30
    assert close(ranking.auroc(y, s), roc_auc_score(y, s))
    assert close(ranking.average_precision(y, s), average_precision_score(y, s))
    weights = bootstrap.draw(rng.integers(0, 60, 200), 5, seed).weights
    fast = ranking.Ranking.of(y, s)
    slow = [roc_auc_score(np.repeat(y, row), np.repeat(s, row)) for row in weights]
    assert close(fast.auroc(weights), slow)
    slow = [average_precision_score(np.repeat(y, row), np.repeat(s, row)) for row in weights]
    assert close(fast.average_precision(weights), slow)


@pytest.mark.parametrize("seed", range(3))
def test_decisions_agree_with_scikit_learn(seed: int) -> None:
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    weights = np.stack([np.ones(100, np.int32), *bootstrap.draw(rng.integers(0, 40, 100), 4, seed).weights])
    found = decisions.class_decisions(y, p, 4, weights)
    formulas = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": partial(metrics.f1_score, average="macro"),
        "kappa": metrics.cohen_kappa_score,
        "mcc": metrics.matthews_corrcoef,
    }
    for name, formula in formulas.items():
        assert close(found[name], [formula(np.repeat(y, row), np.repeat(p, row)) for row in weights], 3e-16), name
    constant = decisions.class_decisions([0, 0, 2], [0, 0, 0], 3, np.ones(3))
    assert np.isnan(constant["mcc"][0]) and constant["balanced_accuracy"][0] == 0.5 and constant["f1"][0] == 0.4


@pytest.mark.parametrize("seed", range(3))
def test_curves_of_resamples_and_bins_are_scikit_learns(seed: int) -> None:
    from sklearn import calibration as peer
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    y, s = rng.integers(0, 2, 90), rng.integers(0, 40, 90) / 40
    weights = bootstrap.draw(rng.integers(0, 50, 90), 4, seed).weights
    for row, positive, negative in zip(weights, *ranking.Ranking.of(y, s).grouped(weights), strict=True):
        false_rate, true_rate, _ = metrics.roc_curve(np.repeat(y, row), np.repeat(s, row), drop_intermediate=False)
        drawn = positive + negative > 0
        assert close((np.cumsum(negative) / negative.sum())[drawn], false_rate[1:])
        assert close((np.cumsum(positive) / positive.sum())[drawn], true_rate[1:])
    counts, means, shares = calibration.reliability(s, y, 10)
    assert close((shares, means), peer.calibration_curve(y, s, n_bins=10), 1e-15) and counts.sum() == 90


@pytest.mark.parametrize("seed", range(3))
def test_weighted_decisions_are_those_of_the_resample(seed: int) -> None:
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    weights = bootstrap.draw(rng.integers(0, 20, 60), 6, seed).weights
    found = decisions.binary_decisions(y, p, weights)
    formulas = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": metrics.f1_score,
        "kappa": metrics.cohen_kappa_score,
        "mcc": metrics.matthews_corrcoef,
    }
    for name, formula in formulas.items():
        assert close(found[name], [formula(np.repeat(y, row), np.repeat(p, row)) for row in weights], 3e-16), name
    constant = decisions.binary_decisions([1, 1, 0], [0, 0, 0], np.ones(3))
    assert np.isnan(constant["mcc"][0]) and constant["balanced_accuracy"][0] == 0.5 and constant["f1"][0] == 0


def test_expected_ties_are_the_mean_over_random_orders() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 3, (6, 8)) / 2, rng.random((6, 8)) < 0.3
    positive[:, 0] |= ~positive.any(1)
    ranks = retrieval.rank_positives(scores, positive)
    for k in (1, 3, 5):
        draws = []
        for _ in range(4000):
            order = np.argsort(-(scores + 1e-6 * rng.random(scores.shape)), axis=1)
            draws.append(np.take_along_axis(positive, order, 1)[:, :k].any(1))
        assert np.abs(np.mean(draws, axis=0) - ranks.hits(k)).max() < 0.04
        assert (ranks.hits(k, "pessimistic") <= ranks.hits(k) + 1e-9).all()
        assert (ranks.hits(k, "optimistic") >= ranks.hits(k) - 1e-9).all()
        assert ((ranks.hits(k, "index") == 0) | (ranks.hits(k, "index") == 1)).all()


def test_intervals_resample_whole_patients() -> None:
    weights = bootstrap.draw(["a", "a", "b", "c", "c"], 50, 0).weights
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
