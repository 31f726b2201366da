"""Whether probabilities mean what they say: expected calibration error, Brier score, likelihood, reliability bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 15) -> list[Bin]:
    """Return equal-width bins `(low, high]` of the probabilities (0 itself is in the first) with what came true in them."""
    confidence, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    result = []
    for index in range(bins):
        inside = place == index
        count = int(inside.sum())
        mean = (float(confidence[inside].mean()), float(truth[inside].mean())) if count else (None, None)
        result.append(Bin(float(edges[index]), float(edges[index + 1]), count, *mean))
    return result


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 15) -> tuple[float, float] | None:
    """Return (ECE, MCE): the mean and the largest gap between confidence and outcome over equal-width bins.

    For a multi-label task pass P(positive) and the label, not the confidence of the decision: they differ.
    """
    filled = [one for one in reliability(probabilities, outcomes, bins) if one.count]
    return _gaps([(one.count, one.confidence or 0.0, one.accuracy or 0.0) for one in filled])


def adaptive_calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 15) -> float | None:
    """Return the ECE over bins of equal count."""
    confidence, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    errors = _gaps([(len(part), float(confidence[part].mean()), float(truth[part].mean())) for part in parts])
    return errors[0] if errors else None


def _gaps(parts: list[tuple[int, float, float]]) -> tuple[float, float] | None:
    total = sum(count for count, _, _ in parts)
    if not total:
        return None
    gaps = [(count / total, abs(confidence - accuracy)) for count, confidence, accuracy in parts]
    return float(sum(share * gap for share, gap in gaps)), float(max(gap for _, gap in gaps))


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Return the mean squared distance of P(positive) from the label."""
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    return float(((values - truth) ** 2).mean()) if len(values) else None


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Return the mean negative log-likelihood of binary labels, probabilities clipped to [1e-12, 1 - 1e-12]."""
    values = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    truth = np.asarray(labels, dtype=np.float64)
    return float(-(truth * np.log(values) + (1 - truth) * np.log1p(-values)).mean()) if len(values) else None


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float | None:
    """Return the T > 0 that minimises the likelihood loss of sigmoid(logits / T) on held-out data; None for one class."""
    from scipy.optimize import minimize_scalar

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not len(values) or truth.min() == truth.max():
        return None

    def loss(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - truth * scaled).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-8.0, 8.0), method="bounded").x))
