"""Paired comparison of runs over the same data: the same resamples of the same patients for both; DeLong for AUROCs.

Only what two runs scored on the same images is compared; anything else is an error, not a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.config import ConfigError

from . import results as result_files
from .bootstrap import Interval, multiplicities, paired_difference, weighted_means
from .metrics.ranking import Ranking, auroc, delong
from .tasks.grounding_scores import base_of

Rows = list[dict[str, Any]]


def compare_runs(runs: Sequence[Path], resamples: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the differences of each run from the first, task by task, and the tasks whose rows hold no scores.

    Raises ConfigError when no task is shared.
    """
    trees = [result_files.read(one) for one in runs]
    first = {one["id"]: one for one in trees[0]["tasks"] if one["status"] == "ok"}
    table: list[dict[str, Any]] = []
    silent: dict[str, None] = {}
    for run, tree in zip(runs[1:], trees[1:], strict=True):
        shared = [one for one in tree["tasks"] if one["status"] == "ok" and one["id"] in first]
        if not shared:
            raise ConfigError(f"{run} and {runs[0]} have no scored task in common")
        for task in shared:
            _same_data(first[task["id"]], task, runs[0], run)
            before = result_files.read_samples(runs[0], first[task["id"]])
            after = result_files.read_samples(run, task)
            found = _compare(first[task["id"]], task, before, after, resamples, seed)
            if not found:
                silent[task["id"]] = None
            table += [{"task": task["id"], "run": str(run), **entry} for entry in found]
    return table, list(silent)


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any], first: Path, second: Path) -> None:
    if one["data"]["ids_sha256"] != other["data"]["ids_sha256"]:
        raise ConfigError(
            f"task {one['id']}: {first} scored {one['data']['n']} images and {second} {other['data']['n']}, not the same ones "
            "(ids_sha256 differs); a paired comparison needs the same images"
        )


def _compare(
    old: Mapping[str, Any], task: Mapping[str, Any], first: Rows, second: Rows, resamples: int, seed: int
) -> list[dict[str, Any]]:
    if len(first) != len(second) or any(a["id"] != b["id"] for a, b in zip(first, second, strict=True)):
        raise ConfigError(f"task {task['id']}: the per-sample files list other images, or in another order")
    if task["family"] == "classification" and "accuracy" not in task["metrics"]:
        counted = [one["metrics"]["auroc_macro"].get("classes") for one in (old, task)]
        return _aurocs(first, second, counted[0] if counted[0] == counted[1] else None, resamples, seed)
    return _means(task, first, second, resamples, seed)


def _means(task: Mapping[str, Any], first: Rows, second: Rows, resamples: int, seed: int) -> list[dict[str, Any]]:
    groups = (
        [str(at) for at in range(len(first))] if task["family"] == "retrieval" else [one["patient"] for one in first]
    )
    weights = multiplicities(groups, resamples, seed)
    result = []
    for name, (before, after) in _values(task, first, second).items():
        both = np.isfinite(before) & np.isfinite(after)
        if not both.any():
            continue
        before, after = np.where(both, before, np.nan), np.where(both, after, np.nan)
        draws = [weighted_means(one, weights) for one in (before, after)]
        means = float(np.nanmean(before)), float(np.nanmean(after))
        found = paired_difference(draws[0], draws[1], means[1] - means[0])
        if found:
            result.append(_entry(name, means, found.interval, found.p_value, "bootstrap"))
    return result


def _values(
    task: Mapping[str, Any], first: Rows, second: Rows
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return per-sample values of both runs by metric."""

    def column(rows: Rows, read: Any) -> NDArray[np.float64]:
        values = [read(one) for one in rows]
        return np.array([np.nan if one is None else one for one in values], dtype=np.float64)

    readers: dict[str, Any] = {}
    if task["family"] == "retrieval":
        for short in ("i2t", "t2i"):
            if f"rank_{short}" in first[0]:
                for name in (one for one in first[0] if one.startswith(f"{short}_r@")):
                    readers[name] = lambda one, n=name: one.get(n)
                readers[f"{short}_mrr"] = lambda one, s=short: 1 / one[f"rank_{s}"]
    elif task["family"] == "classification":
        readers["accuracy"] = _right
    else:
        skip = {"id", "patient", "area"}
        # A score may be undefined for the first row.
        for name, value in (pair for row in first for pair in row.items()):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in (*skip, *readers) and base_of(name) is None:
                readers[name] = lambda one, n=name: one.get(n) if not one.get("bare") else None
    return {name: (column(first, read), column(second, read)) for name, read in readers.items()}


def _right(one: Mapping[str, Any]) -> float:
    answer = max(one["scores"], key=one["scores"].__getitem__)  # of equal scores the first class, as the run takes
    return float(one["labels"].get(answer) == 1)


def _aurocs(
    first: Rows, second: Rows, counted: Sequence[str] | None, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Compare each class, and the mean of the `counted` ones: those that both runs took it over, None where they differ."""
    weights = multiplicities([one["patient"] for one in first], resamples, seed)
    names = [name for name in first[0]["scores"] if name in second[0]["scores"]]
    result: list[dict[str, Any]] = []
    areas: dict[str, list[float]] = {}
    draws: dict[str, list[NDArray[np.float64]]] = {}
    repeated = len({one["patient"] for one in first}) < len(first)
    for name in names:
        known = np.array([name in one["labels"] for one in first])
        labels = np.array([one["labels"].get(name, 0) for one in first])[known]
        scores = [np.array([one["scores"][name] for one in rows])[known] for rows in (first, second)]
        both = [auroc(labels, one) for one in scores]
        if both[0] is None or both[1] is None:
            continue
        areas[name] = [both[0], both[1]]
        draws[name] = [Ranking.of(labels, one).auroc(weights[:, known]) for one in scores]
        found = paired_difference(draws[name][0], draws[name][1], both[1] - both[0])
        if found:
            test = None if repeated else delong(labels, np.stack(scores))  # which takes images for independent
            p, how = (test.p_value(), "DeLong") if test else (found.p_value, "bootstrap")
            result.append(_entry(f"auroc {name}", (both[0], both[1]), found.interval, p, how))
    if counted and areas.keys() >= set(counted):
        macro = [np.mean([draws[one][side] for one in counted], axis=0) for side in (0, 1)]
        mean = [float(np.mean([areas[one][side] for one in counted])) for side in (0, 1)]
        found = paired_difference(macro[0], macro[1], mean[1] - mean[0])
        if found:
            result.insert(0, _entry("auroc_macro", (mean[0], mean[1]), found.interval, found.p_value, "bootstrap"))
    return result


def _entry(name: str, means: tuple[float, float], bounds: Interval, p: float, test: str) -> dict[str, Any]:
    return {
        "metric": name,
        "first": means[0],
        "second": means[1],
        "difference": means[1] - means[0],
        "ci": bounds.bounds,
        "p": p,
        "test": test,
    }
