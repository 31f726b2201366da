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
from .metrics.ranking import Ranking, delong
from .tasks.grounding_scores import base_of

Rows = list[dict[str, Any]]


def compare_runs(runs: Sequence[Path], resamples: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the differences of each run from the first, task by task. Raises ConfigError when no task is shared."""
    trees = [result_files.read(one) for one in runs]
    first = {one["id"]: one for one in trees[0]["tasks"] if one["status"] == "ok"}
    table: list[dict[str, Any]] = []
    for run, tree in zip(runs[1:], trees[1:], strict=True):
        shared = [one for one in tree["tasks"] if one["status"] == "ok" and one["id"] in first]
        if not shared:
            raise ConfigError(f"{run} and {runs[0]} have no scored task in common")
        for task in shared:
            _same_data(first[task["id"]], task, runs[0], run)
            before = result_files.read_samples(runs[0], first[task["id"]])
            after = result_files.read_samples(run, task)
            found = _compare(task, before, after, resamples, seed)
            table += [{"task": task["id"], "run": str(run), **entry} for entry in found]
    return table


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any], first: Path, second: Path) -> None:
    if one["data"]["ids_sha256"] != other["data"]["ids_sha256"]:
        raise ConfigError(
            f"task {one['id']}: {first} scored {one['data']['n']} images and {second} {other['data']['n']}, not the same ones "
            "(ids_sha256 differs); a paired comparison needs the same images"
        )


def _compare(task: Mapping[str, Any], first: Rows, second: Rows, resamples: int, seed: int) -> list[dict[str, Any]]:
    if len(first) != len(second) or any(a["id"] != b["id"] for a, b in zip(first, second, strict=True)):
        raise ConfigError(f"task {task['id']}: the per-sample files list other images, or in another order")
    if task["family"] == "classification" and "accuracy" not in task["metrics"]:
        return _aurocs(first, second, resamples, seed)
    return _means(task, first, second, resamples, seed)


def _means(task: Mapping[str, Any], first: Rows, second: Rows, resamples: int, seed: int) -> list[dict[str, Any]]:
    groups = (
        [str(at) for at in range(len(first))] if task["family"] == "retrieval" else [one["patient"] for one in first]
    )
    weights = multiplicities(groups, resamples, seed)
    result = []
    for name, (before, after) in _values(task, first, second).items():
        both = np.isfinite(before) & np.isfinite(after)
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
                for k in (1, 5, 10):
                    readers[f"{short}_r@{k}"] = lambda one, s=short, k=k: float(one[f"rank_{s}"] <= k)
                readers[f"{short}_mrr"] = lambda one, s=short: 1 / one[f"rank_{s}"]
    elif task["family"] == "classification":
        readers["accuracy"] = _right
    else:
        skip = {"id", "patient", "area"}
        for name, value in first[0].items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in skip and base_of(name) is None:
                readers[name] = lambda one, n=name: one.get(n) if not one.get("bare") else None
    return {name: (column(first, read), column(second, read)) for name, read in readers.items()}


def _right(one: Mapping[str, Any]) -> float:
    answer = max(one["scores"], key=lambda name: (one["scores"][name], name))
    return float(one["labels"].get(answer) == 1)


def _aurocs(first: Rows, second: Rows, resamples: int, seed: int) -> list[dict[str, Any]]:
    weights = multiplicities([one["patient"] for one in first], resamples, seed)
    names = [name for name in first[0]["scores"] if name in second[0]["scores"]]
    result, draws, values = [], [], []
    for name in names:
        known = np.array([name in one["labels"] for one in first])
        labels = np.array([one["labels"].get(name, 0) for one in first])[known]
        scores = [np.array([one["scores"][name] for one in rows])[known] for rows in (first, second)]
        areas = delong(labels, np.stack(scores))
        if areas is None:
            continue
        both = [Ranking.of(labels, one).auroc(weights[:, known]) for one in scores]
        draws.append(both)
        values.append(areas.value)
        bounds = Interval.of(both[1] - both[0])
        if bounds:
            pair = float(areas.value[0]), float(areas.value[1])
            repeated = len({one["patient"] for one in first}) < len(first)
            if repeated:  # DeLong takes images for independent
                found = paired_difference(both[0], both[1], pair[1] - pair[0])
                p, test = (found.p_value if found else 1.0), "bootstrap"
            else:
                p, test = areas.p_value(), "DeLong"
            result.append(_entry(f"auroc {name}", pair, bounds, p, test))
    if values:
        macro = [np.mean([one[side] for one in draws], axis=0) for side in (0, 1)]
        mean = float(np.mean([one[0] for one in values])), float(np.mean([one[1] for one in values]))
        found = paired_difference(macro[0], macro[1], mean[1] - mean[0])
        if found:
            result.insert(0, _entry("auroc_macro", mean, found.interval, found.p_value, "bootstrap"))
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
