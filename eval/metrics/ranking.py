"""How well scores rank positives above negatives: AUROC, average precision, curves, operating points, DeLong.

Labels are 1 and 0; a sample whose label is unknown must be left out before. Ties count one half. Where a class is missing
the metric is None: a constant .5 would hide it. Curves are scikit-learn's. AUROC and AP are our own, for all resamples at
once: 200 of 2,000 scores take 30 ms each, scikit-learn's 0.3 to 0.8 s; the values are equal to 1e-15.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import ratio

Floats = NDArray[np.float64]


def _arrays(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} must be vectors of one length")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {sorted(set(truth.tolist()) - {0, 1})}; leave unknown ones out")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite")
    return truth.astype(bool), values


@dataclass(frozen=True)
class Ranking:
    """Scores sorted once, so that AUROC and AP under many weightings (a bootstrap) cost one pass each.

    `order` sorts the samples by falling score, `starts` are the first places of groups of equal scores in that order.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> Ranking:
        truth, values = _arrays(labels, scores)
        order = np.argsort(-values, kind="stable")
        ranked = values[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, np.intp)
        return cls(order, starts, truth[order])

    def grouped(self, weights: ArrayLike) -> tuple[Floats, Floats]:
        """Return the weight of positives and of negatives at each distinct score, falling, [R, G] under weights [R, n]."""
        ranked = np.atleast_2d(np.asarray(weights, dtype=np.float64))[:, self.order]
        positive = np.add.reduceat(np.where(self.positive, ranked, 0.0), self.starts, axis=1)
        negative = np.add.reduceat(np.where(self.positive, 0.0, ranked), self.starts, axis=1)
        return positive, negative

    def auroc(self, weights: ArrayLike) -> Floats:
        """Return the AUROC [R] under sample weights [R, n] (multiplicities of a resample); NaN where it is undefined."""
        positive, negative = self.grouped(weights)
        below = negative.sum(1, keepdims=True) - np.cumsum(negative, axis=1)
        wins = (positive * (below + 0.5 * negative)).sum(1)
        pairs = positive.sum(1) * negative.sum(1)
        return ratio(wins, pairs)

    def average_precision(self, weights: ArrayLike) -> Floats:
        """Return the AP [R] under sample weights [R, n]; NaN without a positive."""
        positive, negative = self.grouped(weights)
        hits, seen = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return ratio((precision * positive).sum(1), positive.sum(1))


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def auroc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counted one half; None unless both classes are there."""
    ranking = Ranking.of(labels, scores)
    return _defined(ranking.auroc(np.ones(len(ranking.order)))[0])


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the step-wise average precision (not the trapezoid, which is optimistic); None without a positive."""
    ranking = Ranking.of(labels, scores)
    return _defined(ranking.average_precision(np.ones(len(ranking.order)))[0])


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return false-positive rates, true-positive rates and thresholds (falling; the first is infinite, at (0, 0))."""
    from sklearn import metrics

    rates: tuple[Floats, Floats, Floats] = metrics.roc_curve(labels, scores, drop_intermediate=False)
    return rates


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and thresholds (falling), one point per distinct score."""
    from sklearn import metrics

    precision, recall, thresholds = metrics.precision_recall_curve(labels, scores)
    return precision[-2::-1], recall[-2::-1], thresholds[::-1]


def best_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the largest F1 over thresholds (score >= threshold is positive) of labels that hold a positive.

    The threshold is chosen on the data that it scores: an upper bound, not an operating point.
    """
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.nanmax(ratio(2 * precision * recall, precision + recall)))


def youden(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Return the first (highest) threshold that maximises sensitivity + specificity - 1, with both, of labels of both."""
    false_rate, true_rate, thresholds = roc_curve(labels, scores)
    best = int(np.argmax((true_rate - false_rate)[1:])) + 1
    point = {"threshold": thresholds[best], "sensitivity": true_rate[best], "specificity": 1 - false_rate[best]}
    return {name: float(value) for name, value in point.items()}


def sensitivity_at_specificity(labels: ArrayLike, scores: ArrayLike, specificity: float) -> float:
    """Return the best sensitivity among thresholds whose specificity is at least the one given, of labels of both classes."""
    false_rate, true_rate, _ = roc_curve(labels, scores)
    return float(true_rate[1 - false_rate >= specificity - 1e-12].max())


@dataclass(frozen=True)
class Delong:
    """AUROCs [2] of two scores on the same samples with their covariance [2, 2] (DeLong 1988)."""

    value: Floats
    covariance: Floats

    def p_value(self) -> float:
        """Return the two-sided p of no difference between the two; 1 when they never differ."""
        from scipy.stats import norm

        contrast = np.array([1.0, -1.0])
        variance = float(contrast @ self.covariance @ contrast)
        difference = float(self.value[0] - self.value[1])
        if variance <= 0:
            return 1.0 if difference == 0 else 0.0
        return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def delong(labels: ArrayLike, scores: ArrayLike) -> Delong | None:
    """Return AUROCs and covariance of two scores [2, n] by mid-ranks (Sun & Xu 2014); None with under two of a class."""
    from scipy.stats import rankdata

    values = np.asarray(scores, dtype=np.float64)
    truth = _arrays(labels, values[0])[0]
    count, rest = int(truth.sum()), int((~truth).sum())
    if count < 2 or rest < 2:
        return None
    positive, negative = values[:, truth], values[:, ~truth]
    together = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    within_positive, within_negative = rankdata(positive, axis=1), rankdata(negative, axis=1)
    value = together[:, :count].sum(1) / (count * rest) - (count + 1) / (2 * rest)
    over = (together[:, :count] - within_positive) / rest
    under = 1 - (together[:, count:] - within_negative) / count
    covariance = np.cov(over) / count + np.cov(under) / rest
    return Delong(value, covariance)
