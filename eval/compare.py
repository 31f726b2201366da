"""Paired comparison of runs over the same data: the same resamples of the same patients for both.

Only what two runs scored on the same images, and what its family declares as comparable, is compared; other data is an
error, not a number. Whether a difference of means is chance is tested by exchanging the runs within patients, that of
AUROCs by DeLong where no patient has several images and by the resamples otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError

from . import results as result_files
from .bootstrap import Floats, Resamples, draw, paired_difference, sign_flip
from .intervals import FEW_EVENTS
from .metrics.ranking import Delong, Ranking, auroc, delong
from .results import TaskResult
from .tasks.base import Auroc, Comparable, Mean, MeanAuroc, family_of

Pairs = dict[str, tuple[Comparable, Comparable | None]]
"""Comparable metrics of a task by name, of the first run and of another; None where that has none of the name."""


def compare_runs(runs: Sequence[Path], resamples: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the differences of each run from the first, task by task, and notes on them.

    Raises ConfigError when no task is shared.
    """
    first, *others = [result_files.scored(run, result_files.read(run)) for run in runs]
    table: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for run, other in zip(runs[1:], others, strict=True):
        shared = [name for name in other if name in first]
        if not shared:
            raise ConfigError(f"{run} and {runs[0]} have no scored task in common")
        for name in shared:
            _require_same_data(first[name], other[name])
            notes |= dict.fromkeys(_differences_in_setup(first[name], other[name]))
            family = first[name].entry["family"]
            old, new = (family_of(family).comparable(result) for result in (first[name], other[name]))
            pairs = {metric: (left, new.get(metric)) for metric, left in old.items()}
            notes |= dict.fromkeys(f"{name}: {words}" for words in _other_classes(pairs))
            found = _compare(pairs, [row["patient"] for row in first[name].rows], resamples, seed)
            if not found:
                notes[f"{name}: not compared, family {family!r} declares no comparable metric"] = None
            table += [{"task": name, "run": str(run), **entry} for entry in found]
    return table, list(notes)


def _require_same_data(first: TaskResult, second: TaskResult) -> None:
    name, old, new = first.entry["id"], first.entry, second.entry
    if old["family"] != new["family"]:
        raise ConfigError(
            f"task {name}: it is of family {old['family']!r} in {first.out} and {new['family']!r} in {second.out}"
        )
    if old["data"]["ids_sha256"] != new["data"]["ids_sha256"]:
        raise ConfigError(
            f"task {name}: {first.out} scored {old['data']['n']} images and {second.out} {new['data']['n']}, not the same "
            "ones (ids_sha256 differs); a paired comparison needs the same images"
        )
    if [row["id"] for row in first.rows] != [row["id"] for row in second.rows]:
        raise ConfigError(f"task {name}: the per-sample files list other images, or in another order")


def _differences_in_setup(first: TaskResult, second: TaskResult) -> list[str]:
    """Return a line for each thing besides the model that a difference of two runs may come from."""
    old, new = first.entry, second.entry
    differ = {
        "digests of the data": old["data"]["data_digest"] != new["data"]["data_digest"],
        "settings or prompts of the task": old["config_sha256"] != new["config_sha256"],
    }
    words = "differ: a difference in scores need not come from the models"
    return [f"{old['id']}: the {what} {words}" for what, is_so in differ.items() if is_so]


def _other_classes(pairs: Pairs) -> list[str]:
    """Return a line for each mean over classes that the two runs take over other classes: it is not compared."""
    return [
        f"{name} is not compared, a mean over {len(left.of)} classes and one over {len(right.of)}"
        f" ({', '.join(sorted(set(left.of) ^ set(right.of)))})"
        for name, (left, right) in pairs.items()
        if isinstance(left, MeanAuroc) and isinstance(right, MeanAuroc) and left != right
    ]


def _compare(pairs: Pairs, patients: Sequence[str], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return the differences of the metrics that both runs report; `patients` of the rows that are scored."""
    drawn = draw(patients, resamples, seed)
    areas: dict[str, _Areas] = {}
    for name, (left, right) in pairs.items():
        if isinstance(left, Auroc) and isinstance(right, Auroc) and (area := _areas(left, right, drawn)):
            areas[name] = area
    result = []
    for name, (left, right) in pairs.items():
        entry = None
        if isinstance(left, Mean) and isinstance(right, Mean):
            entry = _mean_entry(name, left, right, drawn, seed)
        elif name in areas:
            are_independent = drawn.patients == len(patients)
            test = delong(areas[name].labels, areas[name].scores) if are_independent else None
            entry = _auroc_entry(name, [areas[name]], test)
        elif isinstance(left, MeanAuroc) and left == right and areas.keys() >= set(left.of):
            entry = _auroc_entry(name, [areas[part] for part in left.of], None)
        result += [entry] if entry else []
    return result


def _mean_entry(name: str, first: Mean, second: Mean, drawn: Resamples, seed: int) -> dict[str, Any] | None:
    before, after = (np.array(side.values, dtype=np.float64) for side in (first, second))  # NaN for None
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return None
    old, new, inside = before[known], after[known], drawn[known]
    p = sign_flip(new - old, inside.owners, len(inside.weights), seed)
    differ = inside[old != new].patients
    doubt = "" if differ >= FEW_EVENTS or not differ else f"the runs differ in {differ} patients"
    draws = inside.means(old), inside.means(new)
    return _entry(name, (float(old.mean()), float(new.mean())), draws, p, "sign flips of patients", doubt)


@dataclass(frozen=True)
class _Areas:
    """An AUROC of two runs: values [2], resamples [2, R], the smaller side's patients, labels [n] and scores [2, n]."""

    values: Floats
    draws: Floats
    few: int
    labels: NDArray[np.int64]
    scores: Floats


def _areas(first: Auroc, second: Auroc, drawn: Resamples) -> _Areas | None:
    known = np.array([label is not None for label in first.labels])
    labels = np.array([label or 0 for label in first.labels], dtype=np.int64)[known]
    scores = np.array([first.scores, second.scores], dtype=np.float64)[:, known]
    values = [auroc(labels, side) for side in scores]
    if None in values:
        return None
    few = min(drawn[known][labels == side].patients for side in (0, 1))
    draws = np.stack([Ranking.of(labels, side).auroc(drawn.weights[:, known]) for side in scores])
    return _Areas(np.array(values, dtype=np.float64), draws, few, labels, scores)


def _auroc_entry(name: str, parts: Sequence[_Areas], test: Delong | None) -> dict[str, Any] | None:
    """Return the difference of an AUROC, or of the mean of several; without a test by the resamples."""
    before, after = np.mean([part.values for part in parts], axis=0).tolist()
    few = min(part.few for part in parts)
    doubt = "" if few >= FEW_EVENTS else f"{few} patients on one side"
    p, how = (test.p_value(), "DeLong") if test else (None, "bootstrap")
    return _entry(name, (before, after), np.mean([part.draws for part in parts], axis=0), p, how, doubt)


def _entry(
    name: str, values: tuple[float, float], draws: Iterable[Floats], p: float | None, test: str, doubt: str
) -> dict[str, Any] | None:
    """Return the difference of two values with its interval from `draws` of both; without a `p` of its own with theirs."""
    before, after = values
    found = paired_difference(*draws)
    if found is None:
        return None
    interval, share = found
    difference = {"metric": name, "first": before, "second": after, "difference": after - before}
    test_of_it = {"ci": [interval.low, interval.high], "p": share if p is None else p, "test": test}
    return difference | test_of_it | ({"unreliable": doubt} if doubt else {})
