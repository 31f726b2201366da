"""Whether probabilities mean what they say: reliability bins, expected calibration error, temperature."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def reliability(
    probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 15
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the count, the mean probability and the share that came true of each bin that is not empty, rising.

    Bins are of equal width, `(low, high]` (0 itself is in the first): those of scikit-learn's `calibration_curve`, which
    gives no counts. For a multi-label task pass P(positive) and the label, not the confidence of the decision: they differ.
    """
    confidence, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    filled, counts = np.unique(places, return_counts=True)
    means = np.array([(confidence[places == place].mean(), truth[places == place].mean()) for place in filled])
    return counts, *means.reshape(-1, 2).T


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 15) -> float | None:
    """Return the ECE: the mean gap between probability and outcome over equal-width bins; None without a sample."""
    counts, means, shares = reliability(probabilities, outcomes, bins)
    return float(sum(counts / counts.sum() * np.abs(means - shares))) if len(counts) else None


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
