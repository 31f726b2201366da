"""Paired comparison of runs over the same data: the same resamples of the same patients for both.

Only what two runs scored on the same images is compared; anything else is an error, not a number. Whether a difference of
means is chance is tested by exchanging the runs within patients, that of AUROCs by DeLong where no patient has several
images and by the resamples otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError

from . import results as result_files
from .bootstrap import Floats, Interval, Resamples, draw, paired_difference, sign_flip
from .intervals import FEW_EVENTS
from .metrics.ranking import Ranking, auroc, delong
from .tasks import all_families
from .tasks.base import Column, Task

Rows = list[dict[str, Any]]


def compare_runs(runs: Sequence[Path], resamples: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the differences of each run from the first, task by task, and what is to be said of them.

    Raises ConfigError when no task is shared.
    """
    trees = [result_files.read(one) for one in runs]
    first = {one["id"]: one for one in trees[0]["tasks"] if one["status"] == "ok"}
    table: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for run, tree in zip(runs[1:], trees[1:], strict=True):
        shared = [one for one in tree["tasks"] if one["status"] == "ok" and one["id"] in first]
        if not shared:
            raise ConfigError(f"{run} and {runs[0]} have no scored task in common")
        for task in shared:
            _same_data(first[task["id"]], task, runs[0], run)
            notes |= dict.fromkeys(_unlike(first[task["id"]], task))
            before = result_files.read_samples(runs[0], first[task["id"]])
            after = result_files.read_samples(run, task)
            found = _compare(first[task["id"]], task, before, after, resamples, seed)
            if not found:
                notes[f"{task['id']}: not compared, its per-sample rows hold no scores"] = None
            table += [{"task": task["id"], "run": str(run), **entry} for entry in found]
    return table, list(notes)


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any], first: Path, second: Path) -> None:
    if one["family"] != other["family"]:
        raise ConfigError(
            f"task {one['id']}: it is of family {one['family']!r} in {first} and {other['family']!r} in {second}"
        )
    if one["data"]["ids_sha256"] != other["data"]["ids_sha256"]:
        raise ConfigError(
            f"task {one['id']}: {first} scored {one['data']['n']} images and {second} {other['data']['n']}, not the same ones "
            "(ids_sha256 differs); a paired comparison needs the same images"
        )


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing besides the model that a difference of two runs may come from."""
    unlike = {
        "digests of the data": [task["data"]["data_digest"] for task in (one, other)],
        "settings or prompts of the task": [task["config_sha256"] for task in (one, other)],
    }
    return [
        f"{one['id']}: the {what} differ: not all of a difference need be the models'"
        for what, (first, second) in unlike.items()
        if first != second
    ]


def _compare(
    old: Mapping[str, Any], task: Mapping[str, Any], first: Rows, second: Rows, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return the differences of the metrics that both runs report and their family declares as comparable."""
    if len(first) != len(second) or any(a["id"] != b["id"] for a, b in zip(first, second, strict=True)):
        raise ConfigError(f"task {task['id']}: the per-sample files list other images, or in another order")
    families = all_families()
    # A family of one's own is not imported for a file that names it: it is compared as any task is.
    family = families.get(task["family"]) if task["family"] in families else Task
    both = [family.comparable(one["metrics"], rows) for one, rows in ((old, first), (task, second))]
    drawn = draw([one["patient"] for one in first], resamples, seed)
    result = []
    for name in both[0]:
        if name in both[1]:
            entry = _means(name, _numbers(both[0][name]), _numbers(both[1][name]), drawn, seed)
            result += [entry] if entry else []
    if family.ranked(old["metrics"]) and family.ranked(task["metrics"]):
        counted = [one["metrics"]["auroc_macro"].get("classes") for one in (old, task)]
        result += _aurocs(first, second, counted[0] if counted[0] == counted[1] else None, drawn)
    return result


def _numbers(column: Column) -> Floats:
    return np.array([np.nan if one is None else one for one in column], dtype=np.float64)


def _means(name: str, before: Floats, after: Floats, drawn: Resamples, seed: int) -> dict[str, Any] | None:
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return None
    old, new, inside = before[known], after[known], drawn[known]
    found = paired_difference(inside.means(old), inside.means(new), float(new.mean() - old.mean()))
    if found is None:
        return None
    p = sign_flip(new - old, inside.owners, len(inside.weights), seed)
    differ = inside[old != new].patients
    doubt = "" if differ >= FEW_EVENTS or not differ else f"the runs differ in {differ} patients"
    return _entry(name, (float(old.mean()), float(new.mean())), found.interval, p, "sign flips of patients", doubt)


def _aurocs(first: Rows, second: Rows, counted: Sequence[str] | None, drawn: Resamples) -> list[dict[str, Any]]:
    """Compare each class, and the mean of the `counted` ones: those that both runs took it over, None where they differ."""
    names = [name for name in first[0]["scores"] if name in second[0]["scores"]]
    result: list[dict[str, Any]] = []
    areas: dict[str, list[float]] = {}
    draws: dict[str, list[NDArray[np.float64]]] = {}
    repeated = drawn.patients < len(first)
    few: dict[str, int] = {}
    for name in names:
        known = np.array([name in one["labels"] for one in first])
        labels = np.array([one["labels"].get(name, 0) for one in first])[known]
        scores = [np.array([one["scores"][name] for one in rows])[known] for rows in (first, second)]
        both = [auroc(labels, one) for one in scores]
        if both[0] is None or both[1] is None:
            continue
        areas[name] = [both[0], both[1]]
        few[name] = min(drawn[known][labels == side].patients for side in (0, 1))
        draws[name] = [Ranking.of(labels, one).auroc(drawn.weights[:, known]) for one in scores]
        found = paired_difference(draws[name][0], draws[name][1], both[1] - both[0])
        if found:
            test = None if repeated else delong(labels, np.stack(scores))  # which takes images for independent
            p, how = (test.p_value(), "DeLong") if test else (found.p_value, "bootstrap")
            result.append(_entry(f"auroc {name}", (both[0], both[1]), found.interval, p, how, _doubt(few[name])))
    if counted and areas.keys() >= set(counted):
        macro = [np.mean([draws[one][side] for one in counted], axis=0) for side in (0, 1)]
        mean = [float(np.mean([areas[one][side] for one in counted])) for side in (0, 1)]
        found = paired_difference(macro[0], macro[1], mean[1] - mean[0])
        if found:
            result.insert(
                0,
                _entry(
                    "auroc_macro",
                    (mean[0], mean[1]),
                    found.interval,
                    found.p_value,
                    "bootstrap",
                    _doubt(min(few[one] for one in counted)),
                ),
            )
    return result


def _doubt(few: int) -> str:
    return "" if few >= FEW_EVENTS else f"{few} patients on one side"


def _entry(name: str, means: tuple[float, float], bounds: Interval, p: float, test: str, doubt: str) -> dict[str, Any]:
    entry = {
        "metric": name,
        "first": means[0],
        "second": means[1],
        "difference": means[1] - means[0],
        "ci": bounds.bounds,
        "p": p,
        "test": test,
    }
    return entry | ({"unreliable": doubt} if doubt else {})
