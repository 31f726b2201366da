"""Which records of a set make up a list of single findings, chosen by a rule that always gives the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..base import Context


def uncertain(context: Context, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which usable records [n] leave one of the classes uncertain: they show no single one."""
    records = (context.data.records[index] for index in context.usable)
    return np.array([any(record.labels.get(name) == -1 for name in names) for record in records], dtype=bool)


def fewest(context: Context, classes: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return which usable records [n] are among the `count` of their class (-1: of none) with the smallest hashes."""
    codes = [hashlib.sha256(context.data.records[index].key.encode()).hexdigest() for index in context.usable]
    keep = np.zeros(len(classes), dtype=bool)
    for label in set(classes.tolist()) - {-1}:
        keep[sorted(np.flatnonzero(classes == label), key=lambda row: codes[row])[:count]] = True
    return keep
