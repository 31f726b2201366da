"""How good decisions are: accuracy, F1, kappa, MCC of predicted classes. Classes are integers 0..C-1.

Thin over scikit-learn where the definition is the same; what differs is that undefined is None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ratio import ratio


def confusion(labels: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Return the counts [C, C]: rows are the true class, columns the predicted one."""
    truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return the share of right decisions; None for no samples."""
    truth, guess = np.asarray(labels), np.asarray(predicted)
    return float((truth == guess).mean()) if len(truth) else None


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return the mean recall over the classes that occur in `labels`; None for no samples."""
    truth, guess = np.asarray(labels), np.asarray(predicted)
    if not len(truth):
        return None
    return float(np.mean([(guess[truth == one] == one).mean() for one in np.unique(truth)]))


def macro_f1(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return the mean F1 over the classes that occur among labels or predictions (scikit-learn's macro F1)."""
    truth, guess = np.asarray(labels), np.asarray(predicted)
    return _f1(truth, guess, weighted=False) if len(truth) else None


def weighted_f1(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return the F1 averaged by how often each class occurs in `labels`."""
    truth, guess = np.asarray(labels), np.asarray(predicted)
    return _f1(truth, guess, weighted=True) if len(truth) else None


def _f1(truth: NDArray[np.int64], guess: NDArray[np.int64], weighted: bool) -> float:
    scores, weights = [], []
    for one in np.union1d(truth, guess):
        both = ((truth == one) & (guess == one)).sum()
        scores.append(2 * both / ((truth == one).sum() + (guess == one).sum()))
        weights.append((truth == one).sum())
    return float(np.average(scores, weights=weights)) if weighted else float(np.mean(scores))


def kappa(labels: ArrayLike, predicted: ArrayLike, quadratic: bool = False) -> float | None:
    """Return Cohen's kappa, plain or with quadratic weights; None where chance agreement is already perfect."""
    truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if not len(truth):
        return None
    classes = int(max(truth.max(), guess.max())) + 1
    counts = confusion(truth, guess, classes).astype(np.float64)
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    rows, columns = np.indices(counts.shape)
    weights = (rows - columns) ** 2.0 if quadratic else (rows != columns).astype(np.float64)
    by_chance = float((weights * expected).sum())
    return float(1 - (weights * counts).sum() / by_chance) if by_chance > 0 else None


def matthews(labels: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return Matthews' correlation for any number of classes; None where either side is constant."""
    truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if not len(truth):
        return None
    classes = int(max(truth.max(), guess.max())) + 1
    counts = confusion(truth, guess, classes).astype(np.float64)
    total, actual, chosen = counts.sum(), counts.sum(1), counts.sum(0)
    spread = (total**2 - (chosen**2).sum()) * (total**2 - (actual**2).sum())
    if spread <= 0:
        return None
    return float((np.trace(counts) * total - actual @ chosen) / np.sqrt(spread))


def binary_decisions(labels: ArrayLike, decided: ArrayLike, weights: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return accuracy, balanced accuracy, F1 of the positives, kappa and MCC [R] under weights [R, n]; NaN where undefined."""
    truth, yes = np.asarray(labels, dtype=bool), np.asarray(decided, dtype=bool)
    rows = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    hit, alarm, miss, rest = (
        rows @ one.astype(np.float64) for one in (truth & yes, ~truth & yes, truth & ~yes, ~truth & ~yes)
    )
    total, positive, negative = hit + alarm + miss + rest, hit + miss, alarm + rest
    agreed = ratio(hit + rest, total)
    by_chance = ratio(positive * (hit + alarm) + negative * (miss + rest), total**2)
    spread = positive * negative * (hit + alarm) * (miss + rest)
    return {
        "accuracy": agreed,
        "balanced_accuracy": (ratio(hit, positive) + ratio(rest, negative)) / 2,
        "f1": ratio(2 * hit, 2 * hit + alarm + miss),
        "kappa": ratio(agreed - by_chance, 1 - by_chance),
        "mcc": ratio(hit * rest - alarm * miss, np.sqrt(spread)),
    }
