"""What happens away from home: out-of-distribution detection, and whether embeddings see biology or the hospital."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax

from .arithmetic import ratio, unit
from .ranking import Ranking, roc_curve

Floats = NDArray[np.float64]


def max_softmax(logits: ArrayLike) -> Floats:
    """Return the largest softmax probability [n] of logits [n, C]: high in distribution (MSP)."""
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64), axis=-1).max(-1))


def energy(logits: ArrayLike) -> Floats:
    """Return logsumexp(logits) [n], the negated free energy: high in distribution."""
    return np.asarray(logsumexp(np.asarray(logits, dtype=np.float64), axis=-1), dtype=np.float64)


def out_of_distribution(inside: ArrayLike, outside: ArrayLike) -> dict[str, float] | None:
    """Score how well a score (high = in distribution) tells the two sets apart; None where either is empty.

    AUROC; FPR at the highest threshold that keeps at least 95 % of the in-distribution set; average precision of either
    side; accuracy at the best threshold.
    """
    home, away = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    if not len(home) or not len(away):
        return None
    scores, labels = np.r_[home, away], np.r_[np.ones(len(home)), np.zeros(len(away))]
    wrong, kept, _ = roc_curve(labels, scores)
    ones, home_first, away_first = np.ones(len(labels)), Ranking.of(labels, scores), Ranking.of(1 - labels, -scores)
    return {
        "ood_auroc": float(home_first.auroc(ones)[0]),
        "fpr95": float(wrong[np.argmax(kept >= 0.95)]),
        "ap_in": float(home_first.average_precision(ones)[0]),
        "ap_out": float(away_first.average_precision(ones)[0]),
        "detection_accuracy": float((0.5 * (kept + 1 - wrong)).max()),
    }


def robustness(counts: ArrayLike) -> tuple[Floats, Floats]:
    """Return the robustness index and ratio of neighbours counted as SS, SO, OS, OO [..., 4]; NaN where undefined.

    The index is SO / (SO + OS), in [0, 1] (PathoROB): 1 = neighbours share biology, 0 = they share the centre. The ratio is
    (SS + SO) / (SS + OS), unbounded above (de Jong et al. 2025).
    """
    ss, so, os, _ = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return ratio(so, so + os), ratio(ss + so, ss + os)


def neighbour_counts(
    embeddings: ArrayLike, biology: ArrayLike, centre: ArrayLike, k: int, group: ArrayLike
) -> NDArray[np.int64]:
    """Return how many of the k rows of [n, D] nearest to each by cosine are SS, SO, OS and OO [n, 4].

    The first letter: same or other biology, the second: same or other centre. Rows of a row's own `group`, the patient or
    slide, are left out. Ties go to the lower row. Source: PathoROB.
    """
    rows = unit(embeddings)
    kind, place, own = np.asarray(biology), np.asarray(centre), np.asarray(group)
    counts = np.zeros((len(rows), 4), dtype=np.int64)
    for index in range(len(rows)):
        distance = np.where(own == own[index], np.inf, -(rows @ rows[index]))
        nearest = np.argsort(distance, kind="stable")[:k]
        nearest = nearest[np.isfinite(distance[nearest])]
        sort = 2 * (kind[nearest] != kind[index]) + (place[nearest] != place[index])
        counts[index] = np.bincount(sort, minlength=4)
    return counts
