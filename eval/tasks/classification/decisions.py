"""Scores of yes-or-no decisions, per class and as a mean over classes, with intervals over the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...bootstrap import Interval, Resamples
from ...intervals import Part, of_draws, of_macro, of_mean
from ...metrics.decisions import binary_decisions
from ...results import macro_metric, metric

Decided = dict[str, Part]
"""The scores of one class's decisions by name, those that are defined."""
NAMES = ("accuracy", "balanced_accuracy", "f1", "kappa", "mcc")
CHANCE = {"balanced_accuracy": 0.5, "kappa": 0.0, "mcc": 0.0}
SAME = "every decision is the same"


def decided_class(entry: dict[str, Any], labels: NDArray[np.int64], decided: ArrayLike, drawn: Resamples) -> Decided:
    """Enter the scores of one class's decisions [n] in its entry and return them."""
    values = binary_decisions(labels, decided, np.ones(len(labels)))
    draws = binary_decisions(labels, decided, drawn.weights)
    right = (labels == np.asarray(decided, dtype=np.int64)).astype(np.float64)
    sides = [labels == outcome for outcome in (0, 1)]
    carry = min(drawn[members].patients for members in (*sides, right == 0))
    result = {}
    for name in NAMES:
        value = float(values[name][0])
        bounds: Interval | None = None
        if np.isfinite(value):
            if name == "accuracy":
                bounds = of_mean(right, drawn)
            elif name == "balanced_accuracy":
                bounds = of_macro([_share(right[side], drawn[side]) for side in sides])
            else:
                bounds = of_draws(draws[name], drawn, carry)
            result[name] = Part(value, draws[name], bounds)
        entry[name] = metric(value if np.isfinite(value) else None, bounds, chance=CHANCE.get(name), reason=SAME)
    return result


def _share(right: NDArray[np.float64], drawn: Resamples) -> Part:
    """Return the share of right decisions: sensitivity or specificity."""
    return Part(float(right.mean()), drawn.means(right), of_mean(right, drawn))


def decided_macro(
    per_class: Mapping[str, Mapping[str, Any]], counted: Sequence[str], parts: Mapping[str, Decided]
) -> dict[str, dict[str, Any]]:
    """Return the means over the counted classes; a class whose decisions leave a score undefined is left out of that one."""
    result = {}
    for name in NAMES:
        known = [parts[label][name] for label in counted if name in parts[label]]
        result[f"{name}_macro"] = macro_metric(known, chance=CHANCE.get(name), reason=SAME, n_classes=len(known))
    rates = [name for name in per_class[counted[0]] if name.startswith("sensitivity_at_")]
    for name in (*rates, "ece"):
        values = [per_class[label][name]["value"] for label in counted]
        result[f"{name}_macro"] = metric(float(np.mean(values)), higher_is_better=name != "ece", n_classes=len(values))
    return result
