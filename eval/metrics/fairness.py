"""Whether a score holds for all groups of patients: equity-scaled scores and gaps between groups.

Scores are fractions in [0, 1]; in percent the equity-scaled score has no meaning (its denominator is 1 + a difference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Equity:
    """`scaled` = overall / (1 + sum of |group - overall|); `gap`: from the worst to the best of the groups."""

    scaled: float
    gap: float
    worst: float
    undefined: tuple[str, ...]


def equity_scaled(overall: float | None, groups: Mapping[str, float | None]) -> Equity | None:
    """Return the equity-scaled form of a score (FairSeg, FairCLIP); groups whose score is None are named and left out.

    None when the overall score or every group's is undefined. Raises ValueError for scores that are not fractions.
    """
    known = {name: value for name, value in groups.items() if value is not None}
    if overall is None or not known:
        return None
    if not all(-1 <= value <= 1 for value in (overall, *known.values())):
        raise ValueError("equity-scaled scores are defined for fractions; divide percentages by 100")
    values = np.array([known[name] for name in sorted(known)])
    return Equity(
        scaled=overall / (1 + float(np.abs(values - overall).sum())),
        gap=float(values.max() - values.min()),
        worst=float(values.min()),
        undefined=tuple(sorted(set(groups) - set(known))),
    )
