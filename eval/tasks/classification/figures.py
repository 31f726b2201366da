"""What the report draws of a classification, as plain numbers: curves with bands, reliability, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...metrics.calibration import calibration_error, fit_temperature, reliability
from ...metrics.ranking import auroc, precision_recall_curve, roc_curve
from ...report.shown import confusion_figure, ends
from ...zero_shot.classifier import UNKNOWN, Scores
from ...zero_shot.scoring import sigmoid

Floats = NDArray[np.float64]
HeldOut = tuple[Floats, NDArray[np.int64]]
GRID = np.linspace(0, 1, 51)
BANDS = 200


def curve_figure(
    names: Sequence[str], truth: NDArray[np.int64], ranking: Floats, weights: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Return each class's ROC on a grid of false-positive rates, and PR curve, with 95 % bands; undefined ones left out.

    Of many classes those that the page shows (`ends`).
    """
    areas = [auroc(truth[known, at], ranking[known, at]) for at, known in enumerate((truth != UNKNOWN).T)]
    shown = ends([(at, area) for at, area in enumerate(areas) if area is not None], lambda one: one[1])
    figures = []
    for column, area in sorted(shown):
        name = names[column]
        known = truth[:, column] != UNKNOWN
        labels, values = truth[known, column], ranking[known, column]
        false_rate, true_rate, _ = roc_curve(labels, values)
        rows = np.arange(len(labels))
        drawn, drawn_pr = [], []
        for resample in weights[:BANDS, known]:
            chosen = np.repeat(rows, resample)
            if 0 < labels[chosen].sum() < len(chosen):
                fpr, tpr, _ = roc_curve(labels[chosen], values[chosen])
                drawn.append(_on_grid(fpr, tpr))
                drawn_pr.append(_precision_on_grid(*precision_recall_curve(labels[chosen], values[chosen])[:2]))
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if drawn else (GRID, GRID)
        pr_low, pr_high = np.percentile(drawn_pr, [2.5, 97.5], axis=0) if drawn else (GRID, GRID)
        precision, recall, _ = precision_recall_curve(labels, values)
        keep = np.unique(np.linspace(0, len(recall) - 1, 80).astype(int))
        figures.append(
            {
                "name": name,
                "auroc": area,
                "fpr": GRID.tolist(),
                "tpr": _on_grid(false_rate, true_rate).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "recall": recall[keep].tolist(),
                "precision": precision[keep].tolist(),
                "pr_low": pr_low.tolist(),
                "pr_high": pr_high.tolist(),
                "prevalence": float((labels == 1).mean()),
            }
        )
    return figures


def _on_grid(false_rate: Floats, true_rate: Floats) -> Floats:
    """Return the ROC's highest point at each false-positive rate of the grid, straight lines between vertices."""
    last = np.r_[false_rate[1:] != false_rate[:-1], True]
    return np.asarray(np.interp(GRID, false_rate[last], true_rate[last]))


def _precision_on_grid(precision: Floats, recall: Floats) -> Floats:
    """Return the precision at the first threshold that reaches each recall of the grid."""
    return np.asarray(precision[np.searchsorted(recall, GRID - 1e-12, "left")])


def calibration_figure(
    main: Scores, truth: NDArray[np.int64], counted: Sequence[int], split: str | None, held_out: HeldOut | None
) -> list[dict[str, Any]]:
    """Return reliability bins over all known labels: with the model's temperature, and with one fitted on another split.

    The ECE beside them is the run's own (`ece_macro`): the mean over the columns `counted`. `held_out`: the logits and
    labels [n, C] of that split, None where the data has none.
    """
    entries = [_findings("as it is", main.probability, truth, main.temperature, counted)]
    if held_out is None:
        return entries
    logits, other = held_out
    there = other != UNKNOWN
    scale = fit_temperature(logits[there], other[there])
    if scale is not None:
        title = f"temperature fitted on {split}"
        entries.append(_findings(title, sigmoid(main.logits / scale), truth, main.temperature * scale, counted))
    return entries


def confidence_figure(main: Scores, right: Floats) -> list[dict[str, Any]]:
    """Return reliability bins of the answers' confidences, whose ECE is the run's own (`ece`)."""
    return [_bins("as it is", main.probability.max(1), right, main.temperature, ece_of(main.probability.max(1), right))]


def ece_of(probability: Floats, outcomes: NDArray[Any]) -> float | None:
    """Return the calibration error, the one of every table and figure; None without a sample."""
    errors = calibration_error(probability, outcomes)
    return errors[0] if errors else None


def _findings(
    title: str, probability: Floats, truth: NDArray[np.int64], temperature: float, counted: Sequence[int]
) -> dict[str, Any]:
    known = truth != UNKNOWN
    errors = [ece_of(probability[known[:, one], one], truth[known[:, one], one]) for one in counted]
    defined = [one for one in errors if one is not None]
    return _bins(title, probability[known], truth[known], temperature, float(np.mean(defined)) if defined else None)


def _bins(
    title: str, probability: Floats, labels: NDArray[Any], temperature: float, error: float | None
) -> dict[str, Any]:
    bins = [
        {"confidence": one.confidence, "accuracy": one.accuracy, "count": one.count}
        for one in reliability(probability, labels)
        if one.count
    ]
    return {"title": title, "ece": error, "temperature": temperature, "bins": bins}


def single_finding_confusion(names: Sequence[str], truth: NDArray[np.int64], ranking: Floats) -> dict[str, Any]:
    """Return counts [C, C]: of images with one finding alone (rows), which finding stands out most (columns).

    A finding stands out by the share of images that it scores lower on, so that classes with larger scores do not win.
    """
    places = ranking.argsort(0, kind="stable").argsort(0, kind="stable")
    alone = (truth == 1).sum(1) == 1
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, ((truth[alone] == 1).argmax(1), places[alone].argmax(1)), 1)
    return confusion_figure("Images with one finding: which one stands out", names, counts)
