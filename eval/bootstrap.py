"""Resampling of patients, each with all its samples; percentiles, 95 %. `intervals` says where these do not cover.

A resample in which the metric is undefined is skipped and counted. All metrics of a task share the resamples, and
`compare` draws the same ones for two runs over the same patients, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics.arithmetic import codes, ratio

Floats = NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A percentile interval with the mean and deviation of the kept resamples, and how many were undefined."""

    low: float
    high: float
    mean: float
    deviation: float
    kept: int
    skipped: int
    method: str = "bootstrap_patient"
    unreliable: str = ""
    """Why the interval may be too short; empty where it is vouched for."""

    @classmethod
    def of(cls, values: Floats, method: str = "bootstrap_patient") -> Interval | None:
        """Return the interval of resampled values, NaN where undefined; None when under half of them are defined."""
        known = values[np.isfinite(values)]
        if len(known) < max(2, len(values) / 2):
            return None
        low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        spread = float(known.std(ddof=1))
        return cls(float(low), float(high), float(known.mean()), spread, len(known), len(values) - len(known), method)


@dataclass(frozen=True)
class Resamples:
    """Samples [n] of patients, drawn: how often each occurs in each resample [R, n], and the number of its patient [n].

    `unit` is what is drawn: a patient, or a study or an image where no patient is known, or a query.
    """

    weights: NDArray[np.int32]
    owners: NDArray[np.int64]
    unit: str = "patient"

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Resamples:
        """Return the same resamples of some of the samples."""
        return Resamples(self.weights[:, chosen], self.owners[chosen], self.unit)

    @property
    def patients(self) -> int:
        """How many patients the samples are of."""
        return len(np.unique(self.owners))

    def method(self, name: str) -> str:
        """Return what an interval's method is called in the results."""
        return f"{name}_{self.unit}"

    def means(self, values: Floats) -> Floats:
        """Return the mean [R] of per-sample values [n], NaN left out, in each resample."""
        known = np.isfinite(values)
        part = self.weights[:, known].astype(np.float64)
        return ratio(part @ values[known], part.sum(1))


def draw(groups: Sequence[str] | NDArray[np.int64], resamples: int, seed: int, unit: str = "patient") -> Resamples:
    """Return resamples of the groups that samples [n] are of: groups drawn with replacement, whole.

    Groups are numbered in order of first occurrence and drawn by `default_rng(seed).integers(0, G, G)`.
    """
    owners = codes(groups)
    count, rng = len(set(owners.tolist())), np.random.default_rng(seed)
    weights = np.empty((resamples, len(owners)), dtype=np.int32)
    for row in weights:
        row[:] = np.bincount(rng.integers(0, count, count), minlength=count)[owners]
    return Resamples(weights, owners, unit)


def paired_difference(first: Floats, second: Floats) -> tuple[Interval, float] | None:
    """Return the interval of the difference of two runs (second minus first), from values [R] under the same resamples.

    With it a two-sided p from the share of resamples past 0.
    """
    deltas = second - first
    bounds = Interval.of(deltas)
    if bounds is None:
        return None
    known = deltas[np.isfinite(deltas)]
    # + 1: the observed sample counts as a resample, so p is never 0
    past = min((known <= 0).sum(), (known >= 0).sum())
    return bounds, float(min(1.0, 2 * (past + 1) / (len(known) + 1)))


def sign_flip(differences: Floats, owners: NDArray[np.int64], flips: int, seed: int) -> float:
    """Return the two-sided p of a mean of differences [n], by exchanging the two runs within patients at random.

    Exact for two runs that are equal but for chance, whatever a patient's samples have in common; at most `flips` draws.
    """
    sums = np.bincount(np.unique(owners, return_inverse=True)[1], differences)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    rng = np.random.default_rng(seed)
    seen, past = abs(float(sums.sum())), 1
    for _ in range(flips):
        past += abs(float(sums @ (2.0 * rng.integers(0, 2, len(sums)) - 1))) >= seen * (1 - 1e-12)
    return past / (flips + 1)
