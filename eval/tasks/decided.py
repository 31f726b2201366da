"""What yes-or-no decisions are worth, per class and as a mean over classes, with intervals over the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bootstrap import Interval
from ..metrics.decisions import binary_decisions
from ..results import metric

Drawn = dict[str, NDArray[np.float64]]
NAMES = ("accuracy", "balanced_accuracy", "f1", "kappa", "mcc")
CHANCE = {"balanced_accuracy": 0.5, "kappa": 0.0, "mcc": 0.0}
SAME = "every decision is the same"


def decided_class(
    entry: dict[str, Any], labels: NDArray[np.int64], decided: ArrayLike, weights: NDArray[np.int32]
) -> Drawn:
    """Enter the scores of one class's decisions [n] in its entry; return them under each resample [R]."""
    values = binary_decisions(labels, decided, np.ones(len(labels)))
    drawn = binary_decisions(labels, decided, weights)
    for name in NAMES:
        value = float(values[name][0])
        known = np.isfinite(value)
        bounds = Interval.of(drawn[name]) if known else None
        entry[name] = metric(value if known else None, bounds, chance=CHANCE.get(name), reason=SAME)
    return drawn


def decided_macro(
    per_class: Mapping[str, Mapping[str, Any]], counted: Sequence[str], drawn: Mapping[str, Drawn]
) -> dict[str, dict[str, Any]]:
    """Return the means over the counted classes; a class whose decisions leave a score undefined is left out of that one."""
    result = {}
    for name in NAMES:
        known = [one for one in counted if per_class[one][name]["value"] is not None]
        value = float(np.mean([per_class[one][name]["value"] for one in known])) if known else None
        bounds = Interval.of(np.mean([drawn[one][name] for one in known], axis=0)) if known else None
        result[f"{name}_macro"] = metric(value, bounds, chance=CHANCE.get(name), reason=SAME, n_classes=len(known))
    rates = [one for one in per_class[counted[0]] if one.startswith("sensitivity_at_")]
    for name in (*rates, "ece"):
        values = [per_class[one][name]["value"] for one in counted]
        result[f"{name}_macro"] = metric(float(np.mean(values)), higher_is_better=name != "ece", n_classes=len(values))
    return result
