"""What happens away from home: out-of-distribution detection, and whether embeddings see biology or the hospital."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ranking import auroc, average_precision

Floats = NDArray[np.float64]


def max_softmax(logits: ArrayLike) -> Floats:
    """Return the largest softmax probability [n] of logits [n, C]: high in distribution (MSP)."""
    values = np.asarray(logits, dtype=np.float64)
    powers = np.exp(values - values.max(-1, keepdims=True))
    result: Floats = powers.max(-1) / powers.sum(-1)
    return result


def energy(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return T * logsumexp(logits / T) [n], the negated free energy: high in distribution."""
    from scipy.special import logsumexp

    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(temperature * logsumexp(scaled, axis=-1), dtype=np.float64)


@dataclass(frozen=True)
class OutOfDistribution:
    auroc: float
    fpr95: float
    threshold95: float
    ap_in: float
    ap_out: float
    detection_accuracy: float


def out_of_distribution(inside: ArrayLike, outside: ArrayLike) -> OutOfDistribution | None:
    """Score how well a score (high = in distribution) tells the two sets apart; None where either is empty.

    FPR95 is taken at the highest threshold that keeps at least 95 % of the in-distribution set.
    """
    home, away = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    if not len(home) or not len(away):
        return None
    scores, labels = np.r_[home, away], np.r_[np.ones(len(home)), np.zeros(len(away))]
    thresholds = np.unique(scores)[::-1]
    kept = (home[None, :] >= thresholds[:, None]).mean(1)
    wrong = (away[None, :] >= thresholds[:, None]).mean(1)
    at = int(np.argmax(kept >= 0.95))
    area, ap_in, ap_out = (
        auroc(labels, scores),
        average_precision(labels, scores),
        average_precision(1 - labels, -scores),
    )
    assert area is not None and ap_in is not None and ap_out is not None
    best = float(max(0.5, (0.5 * (kept + 1 - wrong)).max()))
    return OutOfDistribution(area, float(wrong[at]), float(thresholds[at]), ap_in, ap_out, best)


@dataclass(frozen=True)
class Robustness:
    """Neighbours counted as same/other biology (first letter) and same/other centre (second)."""

    same_same: int
    same_other: int
    other_same: int
    other_other: int

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> Robustness:
        """Take the neighbours of all rows together, as `neighbour_counts` counts them [n, 4]."""
        return cls(*(int(one) for one in counts.sum(0)))

    @property
    def index(self) -> float | None:
        """SO / (SO + OS), in [0, 1] (PathoROB): 1 = neighbours share biology, 0 = they share the centre."""
        total = self.same_other + self.other_same
        return self.same_other / total if total else None

    @property
    def ratio(self) -> float | None:
        """(SS + SO) / (SS + OS), unbounded above (de Jong et al. 2025)."""
        total = self.same_same + self.other_same
        return (self.same_same + self.same_other) / total if total else None


def neighbour_counts(
    embeddings: ArrayLike,
    biology: ArrayLike,
    centre: ArrayLike,
    k: int,
    group: ArrayLike | None = None,
    metric: str = "cosine",
) -> NDArray[np.int64]:
    """Return how many of the k nearest neighbours of each row of [n, D] are SS, SO, OS and OO [n, 4] (see `Robustness`).

    Rows of its own `group` are left out: `group` is the patient (or slide); by default each row is its own. Ties go to the
    lower row. Source: PathoROB.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    kind, place = np.asarray(biology), np.asarray(centre)
    own = np.arange(len(rows)) if group is None else np.asarray(group)
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    counts = np.zeros((len(rows), 4), dtype=np.int64)
    for index in range(len(rows)):
        if metric == "cosine":
            distance = -(rows @ rows[index])
        else:
            distance = np.linalg.norm(rows - rows[index], axis=1)
        distance = np.where(own == own[index], np.inf, distance)
        nearest = np.argsort(distance, kind="stable")[:k]
        nearest = nearest[np.isfinite(distance[nearest])]
        sort = 2 * (kind[nearest] != kind[index]) + (place[nearest] != place[index])
        counts[index] = np.bincount(sort, minlength=4)
    return counts
