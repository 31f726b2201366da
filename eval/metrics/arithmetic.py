"""Arithmetic that metrics and scores share. Where a denominator is zero the answer is NaN, which the caller turns into None."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ratio(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    """Return above / below, NaN where `below` is not positive."""
    top, bottom = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def unit(rows: ArrayLike) -> NDArray[np.float64]:
    """Return rows [..., D] at length 1; a zero row stays zero."""
    values = np.asarray(rows, dtype=np.float64)
    result: NDArray[np.float64] = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return result


def codes(values: Iterable[object]) -> NDArray[np.int64]:
    """Return numbers of values in order of first occurrence."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)
