"""Which 95 % interval a score gets: percentiles of resampled patients, or, where these do not cover, a method that does.

Near a bound, or with few patients on one side, percentiles of a bootstrap are too short: all resamples of 60 right answers
are right. There a mean of values in [0, 1] gets Clopper and Pearson's interval at the effective number of samples (Korn &
Graubard 1998), an AUROC the inverted score test with Hanley and McNeil's variance (1982; inverted as by Newcombe 2006), an
average precision the binomial interval over positives (Boyd et al. 2013), a mean over classes the MOVER of its classes'
intervals (Zou & Donner 2008). What has no such method keeps its percentiles and is marked `unreliable`. Coverage is
simulated in `tests/eval/test_coverage.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .bootstrap import LEVEL, Floats, Interval, Resamples
from .metrics.ranking import Ranking

FEW_PATIENTS = 100
"""With fewer patients than this percentiles of a resampled mean are too short."""
FEW_ON_A_SIDE = 30
"""The same for an AUROC, on its smaller side, and for means without bounds, which have no other interval."""
FEW_EVENTS = 10
"""With fewer errors, or fewer hits, than this a mean is near its bound."""
TOO_FEW = 5
"""With fewer patients than this on a side no interval is vouched for."""


@dataclass(frozen=True)
class Part:
    """A class's score in a mean over classes: its value, its resamples [R] and its interval."""

    value: float
    draws: Floats
    interval: Interval | None


def of_mean(values: Floats, drawn: Resamples, bounded: bool = True) -> Interval | None:
    """Return the interval of the mean of per-sample values [n] (NaN: undefined, left out), in [0, 1] where `bounded`."""
    known = np.isfinite(values)
    kept, inside = drawn[known], values[known]
    base = Interval.of(kept.means(inside), kept.method("bootstrap"))
    if base is None:
        return None
    patients = kept.patients
    if not bounded:
        return base if patients >= FEW_ON_A_SIDE else replace(base, unreliable=f"{patients} {kept.unit}s")
    value = float(inside.mean())
    size = effective(inside, kept.owners)
    if patients >= FEW_PATIENTS and min(value, 1 - value) * size >= FEW_EVENTS:
        return base
    return _bounded(base, beta_bounds(value, size), kept.method("beta"), patients, f"{kept.unit}s")


def _bounded(base: Interval, bounds: tuple[float, float], method: str, few: int, what: str) -> Interval:
    """Return an interval with the bounds of another method, unreliable where too few patients carry it."""
    doubt = f"{few} {what}" if few < TOO_FEW else ""
    return replace(base, low=bounds[0], high=bounds[1], method=method, unreliable=doubt)


def effective(values: Floats, owners: NDArray[np.int64]) -> float:
    """Return how many independent yes-or-no answers say as much of the mean as values [n] in [0, 1] of these patients.

    p (1 - p) over the variance of the mean between patients, at most n, less what is lost on estimating that variance (the
    ratio of squared t quantiles of n - 1 and of patients - 1); the number of patients where no two values differ.
    """
    from scipy.special import stdtrit  # not scipy.stats: seconds to import

    count, patients = len(values), len(np.unique(owners))
    value = float(values.mean())
    if patients < 2:
        return float(patients)
    sums = np.bincount(np.unique(owners, return_inverse=True)[1], values - value)
    variance = patients / (patients - 1) * float((sums**2).sum()) / count**2
    if variance <= 0 or not 0 < value < 1:
        return float(patients)
    size = min(float(count), value * (1 - value) / variance)
    tail = (1 + LEVEL) / 2
    return size * float(stdtrit(count - 1, tail) / stdtrit(patients - 1, tail)) ** 2


def beta_bounds(value: float, size: float) -> tuple[float, float]:
    """Return Clopper and Pearson's bounds of a share seen in `size` answers, which need not be whole."""
    from scipy.special import betaincinv

    hits, misses, tail = value * size, (1 - value) * size, (1 - LEVEL) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 0 else 1.0
    return min(low, value), max(high, value)


def of_auroc(value: float, labels: NDArray[np.int64], draws: Floats, drawn: Resamples) -> Interval | None:
    """Return the interval of an AUROC from its resamples [R], the labels [n] of 0 and 1 and whose they are."""
    base = Interval.of(draws, drawn.method("bootstrap"))
    positive, negative = drawn[labels == 1].patients, drawn[labels != 1].patients
    few = min(positive, negative)
    if base is not None and few >= FEW_ON_A_SIDE and min(value, 1 - value) * few >= TOO_FEW:
        return base
    if base is None:  # most resamples are undefined
        if len(draws) < 2:
            return None
        kept = int(np.isfinite(draws).sum())
        base = Interval(value, value, value, 0.0, kept, len(draws) - kept)
    bounds = score_bounds(value, positive, negative, base.deviation**2)
    return _bounded(base, bounds, drawn.method("score"), few, f"{drawn.unit}s on one side")


def auroc_part(labels: NDArray[np.int64], scores: Floats, drawn: Resamples) -> Part | None:
    """Return the AUROC of labels [n] of 1 and 0 and scores [n], with its resamples and interval; None where undefined."""
    ranking = Ranking.of(labels, scores)
    value = float(ranking.auroc(np.ones(len(labels)))[0])
    if not np.isfinite(value):
        return None
    draws = ranking.auroc(drawn.weights)
    return Part(value, draws, of_auroc(value, labels, draws, drawn))


def score_bounds(value: float, positive: int, negative: int, seen: float) -> tuple[float, float]:
    """Return the AUROCs that are not rejected at the 5 % level, under a variance that depends on them.

    The variance is the larger of Hanley and McNeil's two (whichever side is the skewed one), and as much more as the
    variance `seen` in the resamples exceeds it at the value itself.
    """
    from scipy.special import ndtri

    at = np.linspace(0, 1, 2001)[1:-1]

    def variance(area: Floats) -> Floats:
        above, below = area * (1 - area) ** 2 / (2 - area), area**2 * (1 - area) / (1 + area)
        first = (positive - 1) * above + (negative - 1) * below
        second = (negative - 1) * above + (positive - 1) * below
        result: Floats = (area * (1 - area) + np.maximum(first, second)) / (positive * negative)
        return result

    own = float(variance(np.array([min(max(value, at[0]), at[-1])]))[0])
    spread = np.sqrt(variance(at) * max(1.0, seen / own))
    kept = at[np.abs(at - value) <= float(ndtri((1 + LEVEL) / 2)) * spread]
    low, high = float(kept.min(initial=value)), float(kept.max(initial=value))
    return (0.0 if value <= at[0] else low), (1.0 if value >= at[-1] else high)


def of_average_precision(value: float, labels: NDArray[np.int64], draws: Floats, drawn: Resamples) -> Interval | None:
    """Return the interval of an average precision; with few positives the binomial one over the patients that have one."""
    base = Interval.of(draws, drawn.method("bootstrap"))
    if base is None:
        return None
    positive = drawn[labels == 1].patients
    if positive >= FEW_ON_A_SIDE and min(value, 1 - value) * positive >= TOO_FEW:
        return base
    bounds = beta_bounds(value, positive)
    return _bounded(base, bounds, drawn.method("beta"), positive, f"{drawn.unit}s with a positive")


def of_macro(parts: Sequence[Part], weights: Sequence[float] | None = None) -> Interval | None:
    """Return the interval of a mean over classes: percentiles, or the MOVER where a class's own are of another method.

    MOVER: with d_k the distances of the classes' bounds from their values, the bound of the mean lies
    sqrt(sum_jk r_jk d_j d_k) / K away; r are the correlations of the classes' resamples.
    """
    if not parts:
        return None
    shares = np.full(len(parts), 1 / len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    draws = np.stack([part.draws for part in parts])
    known = [part.interval for part in parts if part.interval is not None]
    plain = [interval.method for interval in known if interval.method.startswith("bootstrap")]
    base = Interval.of(shares @ draws, next(iter(plain), "bootstrap_patient"))
    doubt = next((interval.unreliable for interval in known if interval.unreliable), "")
    if base is not None and len(plain) == len(known):
        return replace(base, unreliable=doubt)
    if len(known) < len(parts):
        return replace(base, unreliable="a class has no interval") if base is not None else None
    together = _correlations(draws)

    def reach(distances: Sequence[float]) -> float:
        shared = shares * np.array(distances)
        return float(np.sqrt(max(0.0, float(shared @ together @ shared))))

    value = float(shares @ [part.value for part in parts])
    low = value - reach([part.value - own.low for part, own in zip(parts, known, strict=True)])
    high = value + reach([own.high - part.value for part, own in zip(parts, known, strict=True)])
    method = known[0].method if len(parts) == 1 else f"mover_{known[0].method.rpartition('_')[2]}"
    return replace(base or known[0], low=low, high=high, method=method, unreliable=doubt)


def _correlations(rows: Floats) -> Floats:
    """Return the correlations [K, K] of resamples [K, R]; 0 between classes of which one never moves, 1 with itself."""
    shared = np.isfinite(rows).all(0)
    result = np.eye(len(rows))
    if shared.sum() > 2 and len(rows) > 1:
        moves = rows[:, shared].std(1) > 1e-12
        if moves.sum() > 1:
            result[np.ix_(moves, moves)] = np.corrcoef(rows[np.ix_(moves, shared)])
    return result


def of_draws(draws: Floats, drawn: Resamples, few: int) -> Interval | None:
    """Return the percentiles of any score's resamples [R], marked where `few` patients (of errors, of a side) carry it."""
    base = Interval.of(draws, drawn.method("bootstrap"))
    if base is None:
        return None
    if base.low == base.high:
        return replace(base, unreliable="all resamples agree")
    return base if few >= FEW_EVENTS else replace(base, unreliable=f"{few} {drawn.unit}s carry it")
