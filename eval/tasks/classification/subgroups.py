"""A task's main score within subgroups of its images, by the group columns that the suite asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.labels import group_of
from ...intervals import Part, of_macro
from ...metrics.fairness import equity_scaled
from ...results import metric
from ..base import Context, Outcome
from .labels import Settings

NAMED = 10


def mean_part(parts: Sequence[Part]) -> Part:
    """Return the mean of classes' scores as a score with an interval of its own."""
    value = float(np.mean([part.value for part in parts]))
    return Part(value, np.mean([part.draws for part in parts], axis=0), of_macro(parts))


def by_subgroup(
    context: Context,
    outcome: Outcome,
    asked: Settings,
    name: str,
    chance: float | None,
    inside: Callable[[NDArray[np.bool_]], Part | None],
) -> None:
    """Enter the metric `name` of each subgroup of each column; `inside` scores some of the images [n], None: undefined."""
    for column in asked.subgroups:
        members = np.array([group_of(context.data.records[index], column) or "" for index in outcome.indices])
        entries: dict[str, Any] = {}
        for group in sorted(set(members.tolist()) - {""}):
            chosen = members == group
            part = inside(chosen) if int(chosen.sum()) >= asked.min_group else None
            reason = f"under {asked.min_group} images or a class missing"
            value, bounds = (part.value, part.interval) if part else (None, None)
            entries[group] = {"n": int(chosen.sum()), name: metric(value, bounds, reason=reason, chance=chance)}
        if not entries:
            outcome.warnings.append(f"subgroups by {column!r} left out: no image says its {column}")
            continue
        equity = equity_scaled(
            outcome.metrics[name]["value"], {group: entry[name]["value"] for group, entry in entries.items()}
        )
        scaled = f"es_{name.removesuffix('_macro')}"
        several = equity is not None and len(entries) - len(equity.undefined) > 1  # one group has no gap
        outcome.subgroups[column] = {"metric": name, "groups": entries} | (
            {scaled: equity.scaled, "gap": equity.gap, "worst": equity.worst} if equity and several else {}
        )


def left_out_words(classes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each reason for which classes were left out of the means: the first ones by name."""
    lines = []
    for reason, names in classes.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{', '.join(names[:NAMED])}{more}: {reason}; left out of the means")
    return lines
