"""Where the right answer stands in a ranking: hit@k, recall@k, precision@k, ranks, with multi-positives and ties.

Everything works on counts per query, so that galleries of any size are scored in chunks (`vlp_eval.embeddings.search`) and the
bootstrap resamples queries while the gallery stays fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ties = Literal["expected", "pessimistic", "optimistic", "index"]


@dataclass(frozen=True)
class Ranks:
    """For each query [Q]: how its best positive stands among the gallery.

    `above`: candidates that score strictly higher; `level`: candidates of the same score (the positives among them
    included); `level_positives`: positives among those; `before`: candidates of the same score that are not positives and
    stand earlier in the gallery; `positives`: all positives of the query.
    """

    above: Ints
    level: Ints
    level_positives: Ints
    before: Ints
    positives: Ints

    def __len__(self) -> int:
        return len(self.above)

    def hits(self, k: int, ties: Ties = "expected") -> Floats:
        """Return the chance [Q] that any positive is among the first k: 0 or 1 but for ties under `expected`."""
        if ties == "expected":
            return _expected_hit(self.above, self.level, self.level_positives, k)
        return (self.rank(ties) <= k).astype(np.float64)

    def rank(self, ties: Ties = "expected") -> Floats:
        """Return the rank [Q] of the best positive, counted from 1."""
        others = self.level - self.level_positives
        behind: NDArray[np.floating] | Ints = {
            "expected": others / (self.level_positives + 1.0),
            "pessimistic": others,
            "optimistic": np.zeros_like(others),
            "index": self.before,
        }[ties]
        return np.asarray(self.above + 1 + behind, dtype=np.float64)


def _expected_hit(above: Ints, level: Ints, positives: Ints, k: int) -> Floats:
    from scipy.special import gammaln

    slots = np.clip(k - above, 0, level).astype(np.float64)
    others = (level - positives).astype(np.float64)
    # P(no positive in the slots) = C(others, slots) / C(level, slots), of a random order within the tie
    possible = others >= slots
    safe = np.where(possible, others - slots, 0.0)
    missed = gammaln(others + 1) - gammaln(safe + 1) - gammaln(level + 1) + gammaln(level - slots + 1)
    return np.where(slots <= 0, 0.0, np.where(possible, 1 - np.exp(missed), 1.0))


def rank_positives(similarity: ArrayLike, positive: ArrayLike) -> Ranks:
    """Return the ranks of similarities [Q, G] against a boolean matrix [Q, G] of positives, each query having one or more."""
    scores, truth = np.asarray(similarity), np.asarray(positive, dtype=bool)
    if scores.shape != truth.shape:
        raise ValueError(f"similarity {scores.shape} and positives {truth.shape} must have one shape")
    if len(truth) and not truth.any(1).all():
        raise ValueError(f"{int((~truth.any(1)).sum())} queries have no positive in the gallery")
    best = np.where(truth, scores, -np.inf).max(1) if len(scores) else np.zeros(0)
    level = scores == best[:, None]
    first = np.where(truth & level, np.arange(scores.shape[1]), scores.shape[1]).min(1) if len(scores) else np.zeros(0)
    before = level & ~truth & (np.arange(scores.shape[1]) < first[:, None])
    return Ranks(
        above=(scores > best[:, None]).sum(1).astype(np.int64),
        level=level.sum(1).astype(np.int64),
        level_positives=(level & truth).sum(1).astype(np.int64),
        before=before.sum(1).astype(np.int64),
        positives=truth.sum(1).astype(np.int64),
    )


def precision_at(ranked: NDArray[np.bool_], k: int) -> Floats:
    """Return the share [Q] of right candidates among the first k of a ranking [Q, G] (k, not fewer, in the denominator)."""
    return ratio(ranked[:, :k].sum(1), k)


def average_precisions(ranked: NDArray[np.bool_]) -> Floats:
    """Return the average precision [Q] over the whole ranking; NaN for a query without a relevant candidate."""
    places = np.arange(1, ranked.shape[1] + 1)
    precision = np.cumsum(ranked, axis=1) / places
    return ratio((precision * ranked).sum(1), ranked.sum(1))


def chance_hit(gallery: int, positives: ArrayLike, k: int) -> float:
    """Return the expected hit@k of a random order, given each query's number of positives."""
    counts = np.asarray(positives, dtype=np.int64)
    whole = np.full(len(counts), gallery, dtype=np.int64)
    return float(_expected_hit(np.zeros_like(whole), whole, counts, k).mean())
