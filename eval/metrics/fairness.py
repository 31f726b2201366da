"""Whether a score holds for everyone: equity-scaled scores, gaps between groups, parity of decisions.

Scores are fractions in [0, 1]; in percent the equity-scaled score has no meaning (its denominator is 1 + a difference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Equity:
    """`scaled` = overall / (1 + sum of |group - overall|); `scaled_std` = overall / (1 + sample deviation of the groups)."""

    overall: float
    delta: float
    scaled: float
    scaled_std: float | None
    gap: float
    worst: float
    undefined: tuple[str, ...]


def equity_scaled(overall: float | None, groups: Mapping[str, float | None], alpha: float = 1.0) -> Equity | None:
    """Return the equity-scaled form of a score (FairSeg, FairCLIP); groups whose score is None are named and left out.

    None when the overall score or every group's is undefined. Raises ValueError for scores that are not fractions.
    """
    known = {name: value for name, value in groups.items() if value is not None}
    if overall is None or not known:
        return None
    if not all(-1 <= value <= 1 for value in (overall, *known.values())):
        raise ValueError("equity-scaled scores are defined for fractions; divide percentages by 100")
    values = np.array([known[name] for name in sorted(known)])
    delta = float(np.abs(values - overall).sum())
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return Equity(
        overall=overall,
        delta=delta,
        scaled=overall / (1 + alpha * delta),
        scaled_std=None if spread is None else overall / (1 + spread),
        gap=float(values.max() - values.min()),
        worst=float(values.min()),
        undefined=tuple(sorted(set(groups) - set(known))),
    )


def demographic_parity_difference(predicted: ArrayLike, groups: ArrayLike) -> float | None:
    """Return the largest difference in the share of positive decisions between groups."""
    decisions, members = np.asarray(predicted, dtype=bool), np.asarray(groups)
    rates = [decisions[members == one].mean() for one in np.unique(members)]
    return float(max(rates) - min(rates)) if rates else None


def equalized_odds_difference(labels: ArrayLike, predicted: ArrayLike, groups: ArrayLike) -> float | None:
    """Return the larger of the gaps in true-positive and false-positive rate; None where a group lacks a class."""
    truth, decisions, members = (np.asarray(one) for one in (labels, predicted, groups))
    gaps = []
    for outcome in (1, 0):
        rates = []
        for one in np.unique(members):
            chosen = decisions[(members == one) & (truth == outcome)]
            if not len(chosen):
                return None
            rates.append(float(np.asarray(chosen, dtype=bool).mean()))
        gaps.append(max(rates) - min(rates))
    return float(max(gaps)) if gaps else None
