"""Confidence intervals by resampling: patients (each with all its samples), or queries; percentiles, 95 %.

A resample in which the metric is undefined is skipped and counted. All metrics of a task share the resamples, and
`compare` draws the same ones for two runs over the same patients, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .metrics.ratio import ratio

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A percentile interval with the mean and deviation of the kept resamples, and how many were undefined."""

    low: float
    high: float
    mean: float
    deviation: float
    kept: int
    skipped: int

    @classmethod
    def of(cls, values: Floats, level: float = 0.95) -> Interval | None:
        """Return the interval of resampled values, NaN where undefined; None when under half of them are defined."""
        known = values[np.isfinite(values)]
        if len(known) < max(2, len(values) / 2):
            return None
        low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
        return cls(
            float(low), float(high), float(known.mean()), float(known.std(ddof=1)), len(known), len(values) - len(known)
        )

    @property
    def bounds(self) -> list[float]:
        return [self.low, self.high]


def multiplicities(groups: Sequence[str] | NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int32]:
    """Return how often each of n samples occurs in each resample [R, n]: groups drawn with replacement, whole.

    Groups are numbered in order of first occurrence and drawn by `default_rng(seed).integers(0, G, G)`.
    """
    codes: dict[object, int] = {}
    member = np.array([codes.setdefault(one, len(codes)) for one in groups], dtype=np.int64)
    rng = np.random.default_rng(seed)
    result = np.empty((resamples, len(member)), dtype=np.int32)
    for row in result:
        row[:] = np.bincount(rng.integers(0, len(codes), len(codes)), minlength=len(codes))[member]
    return result


def stratified_multiplicities(labels: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int32]:
    """Return multiplicities [R, n] that draw positives and negatives apart: for a class so rare that resamples lose it."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels != 1)
    rng = np.random.default_rng(seed)
    result = np.zeros((resamples, len(labels)), dtype=np.int32)
    for row in result:
        drawn = np.concatenate([rng.choice(side, len(side)) for side in (positive, negative) if len(side)])
        row += np.bincount(drawn, minlength=len(labels)).astype(np.int32)
    return result


def mean_interval(values: Floats, weights: NDArray[np.int32]) -> Interval | None:
    """Return the interval of the mean of per-sample values [n] (NaN = undefined for the sample, left out)."""
    return Interval.of(weighted_means(values, weights))


def weighted_means(values: Floats, weights: NDArray[np.int32]) -> Floats:
    """Return the mean [R] of per-sample values [n], NaN left out, under multiplicities [R, n]."""
    known = np.isfinite(values)
    part = weights[:, known].astype(np.float64)
    return ratio(part @ values[known], part.sum(1))


def interval(
    metric: Callable[[NDArray[np.intp]], float | None], weights: NDArray[np.int32], level: float = 0.95
) -> Interval | None:
    """Return the interval of any metric of sample indices (repeated as drawn): general, one call per resample."""
    places = np.arange(weights.shape[1])
    values = [metric(np.repeat(places, row)) for row in weights]
    return Interval.of(np.array([np.nan if value is None else value for value in values]), level)


@dataclass(frozen=True)
class Difference:
    """A paired difference (second minus first) with its interval and a two-sided p from the share of resamples past 0."""

    value: float
    interval: Interval
    p_value: float


def paired_difference(first: Floats, second: Floats, value: float) -> Difference | None:
    """Return the difference between two runs, from their values [R] under the same resamples."""
    deltas = second - first
    bounds = Interval.of(deltas)
    if bounds is None:
        return None
    known = deltas[np.isfinite(deltas)]
    # + 1: the observed sample counts as a resample, so p is never 0
    past = min((known <= 0).sum(), (known >= 0).sum())
    return Difference(value, bounds, float(min(1.0, 2 * (past + 1) / (len(known) + 1))))
