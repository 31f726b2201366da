"""What the page draws of a classification: curves with bands, reliability, confusion, subgroups, prompt sensitivity.

`section` draws the plain numbers that the others make when the task runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ...drawing import cards, charts
from ...drawing.wording import SIDE, confusion_figure, ends, hidden
from ...metrics.calibration import calibration_error, fit_temperature, reliability
from ...metrics.ranking import Ranking, auroc, precision_recall_curve, roc_curve
from ...results import TaskResult
from ...zero_shot.classifier import UNKNOWN, Scores
from ..base import Task, class_rows, scores_card

Floats = NDArray[np.float64]
GRID = np.linspace(0, 1, 51)
BANDS = 200


def curves(
    names: Sequence[str], truth: NDArray[np.int64], ranking: Floats, weights: NDArray[np.int32]
) -> list[dict[str, Any]]:
    """Return each class's ROC on a grid of false-positive rates, and PR curve, with 95 % bands; undefined ones left out.

    Of many classes those that the page shows (`ends`).
    """
    shown = ends(list(class_areas(names, truth, ranking).items()), lambda pair: pair[1])
    figures = []
    for name, area in sorted(shown, key=lambda pair: names.index(pair[0])):
        column = names.index(name)
        known = truth[:, column] != UNKNOWN
        labels, values = truth[known, column], ranking[known, column]
        false_rate, true_rate, _ = roc_curve(labels, values)
        drawn, drawn_pr = [], []
        for positive, negative in zip(*Ranking.of(labels, values).grouped(weights[:BANDS, known]), strict=True):
            hits, alarms = np.cumsum(positive), np.cumsum(negative)
            seen = hits + alarms > 0  # from the first score that was drawn on
            if hits[-1] and alarms[-1]:
                recall = hits[seen] / hits[-1]
                drawn.append(_on_grid(np.r_[0, alarms[seen] / alarms[-1]], np.r_[0, recall]))
                drawn_pr.append(_precision_on_grid(hits[seen] / (hits + alarms)[seen], recall))
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if drawn else (GRID, GRID)
        pr_low, pr_high = np.percentile(drawn_pr, [2.5, 97.5], axis=0) if drawn else (GRID, GRID)
        precision, recall, _ = precision_recall_curve(labels, values)
        keep = np.unique(np.linspace(0, len(recall) - 1, 80).astype(int))
        roc = {"fpr": GRID, "tpr": _on_grid(false_rate, true_rate), "low": low, "high": high}
        pr = {"recall": recall[keep], "precision": precision[keep], "pr_low": pr_low, "pr_high": pr_high}
        lines = {key: values.tolist() for key, values in (roc | pr).items()}
        figures.append({"name": name, "auroc": area, **lines, "prevalence": float((labels == 1).mean())})
    return figures


def class_areas(names: Sequence[str], truth: NDArray[np.int64], ranking: Floats) -> dict[str, float]:
    """Return the AUROC of each class that has one."""
    areas = (auroc(truth[known, at], ranking[known, at]) for at, known in enumerate((truth != UNKNOWN).T))
    return {name: area for name, area in zip(names, areas, strict=True) if area is not None}


def _on_grid(false_rate: Floats, true_rate: Floats) -> Floats:
    """Return the ROC's highest point at each false-positive rate of the grid, straight lines between vertices."""
    last = np.r_[false_rate[1:] != false_rate[:-1], True]
    return np.asarray(np.interp(GRID, false_rate[last], true_rate[last]))


def _precision_on_grid(precision: Floats, recall: Floats) -> Floats:
    """Return the precision at the first threshold that reaches each recall of the grid."""
    return np.asarray(precision[np.searchsorted(recall, GRID - 1e-12, "left")])


def calibration(
    truth: NDArray[np.int64],
    main: Scores,
    error: float | None,
    counted: Sequence[int],
    held_out: tuple[Scores, NDArray[np.int64]] | None,
    split: str | None,
) -> list[dict[str, Any]]:
    """Return reliability bins over all known labels: with the model's temperature, and with one fitted on another split.

    The ECE beside them is the run's own `error`, the mean over the columns `counted`. `held_out`: the logits and labels
    [n, C] of that split, None where the data has none.
    """
    known = truth != UNKNOWN
    figures = [reliability_bins("uncalibrated", main.probability[known], truth[known], main.temperature, error)]
    if held_out is None:
        return figures
    scores, labels = held_out
    scale = fit_temperature(scores.logits[labels != UNKNOWN], labels[labels != UNKNOWN])
    if scale is not None:
        fitted = expit(main.logits / scale)
        errors = [calibration_error(fitted[known[:, at], at], truth[known[:, at], at]) for at in counted]
        mean = float(np.mean([error for error in errors if error is not None]))
        title, temperature = f"temperature fitted on {split}", main.temperature * scale
        figures.append(reliability_bins(title, fitted[known], truth[known], temperature, mean))
    return figures


def reliability_bins(
    title: str, probability: Floats, labels: NDArray[Any], temperature: float, error: float | None
) -> dict[str, Any]:
    """Return the reliability bins of probabilities [n] and outcomes [n], beside their ECE."""
    bins = [
        {"confidence": float(mean), "accuracy": float(share), "count": int(count)}
        for count, mean, share in zip(*reliability(probability, labels), strict=True)
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
    return confusion_figure("Confusion of images with a single finding", names, counts)


def section(family: type[Task[Any]], result: TaskResult) -> cards.Section:
    """Return the cards of a classification."""
    per_class, figures = result.entry["per_class"], result.figures
    rows = class_rows(result, "auroc", lambda entry: f"{entry['n_pos']:,} / {entry['n_neg']:,}")
    note = cards.Note(f"Beside each name: positives / negatives. {hidden(len(per_class))}".strip())
    classes = cards.Card(
        f"{family.title('auroc')} per class", [cards.Forest(rows), note, *_published_of_classes(result)]
    )
    section = [[scores_card(family, result), classes]]
    if figures.get("curves"):
        section.append([_curves(figures["curves"], per_class)])
    more = (_confusion(figures), _calibration(figures), _wording(result), _subgroups(family, result))
    if drawn := [card for card in more if card]:
        section.append(drawn)
    return section


def _published_of_classes(result: TaskResult) -> list[cards.Published]:
    """Return the published AUROCs of classes, those of a model together, in the order of the classes."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name in result.entry["per_class"]:
        for reference in cards.references_of(result.entry, name):
            found.setdefault((reference["model"], reference["source"]), []).append((name, reference["value"]))
    return [cards.Published(model, numbers, source) for (model, source), numbers in found.items()]


def _curves(curves: Sequence[Mapping[str, Any]], per_class: Mapping[str, Any]) -> cards.Card:
    rocs = [(charts.roc(curve), curve["name"], f"{curve['auroc']:.3f}") for curve in curves]
    precisions = [
        (charts.precision_recall(curve), curve["name"], f"AP {per_class[curve['name']]['ap']['value']:.3f}")
        for curve in curves
    ]
    folded = cards.Multiples(precisions, "Precision-recall curves with 95 % bands")
    return cards.Card("ROC curves with 95 % bands", [cards.Multiples(rocs), folded])


def _confusion(figures: Mapping[str, Any]) -> cards.Card | None:
    figure = figures.get("confusion")
    if not figure:
        return None
    if figure.get("pairs"):
        rows = [(truth, answer, f"{count:,} of {total:,}") for truth, answer, count, total in figure["pairs"]]
        title = f"{figure['title']}: the most frequent errors among {figure['n_classes']:,} classes"
        return cards.Card(title, [cards.Table(("truth", "prediction", "images"), rows)])
    if not any(map(sum, figure.get("counts", ()))) or len(figure["classes"]) > 2 * SIDE:
        return None
    note = cards.Note("Rows: truth. Columns: prediction. Shade: share of the row.")
    return cards.Card(figure["title"], [cards.Matrix(figure["classes"], figure["counts"]), note])


def _calibration(figures: Mapping[str, Any]) -> cards.Card | None:
    entries = figures.get("calibration")
    if not entries:
        return None
    errors = ["–" if entry["ece"] is None else f"{entry['ece']:.3f}" for entry in entries]
    words = [f"{entry['title']}: ECE {error}" for entry, error in zip(entries, errors, strict=True)]
    legend = tuple(zip(("k-point", "k-second"), words, strict=False))
    return cards.Card("Calibration", [cards.Chart(charts.reliability(entries), legend)])


def _wording(result: TaskResult) -> cards.Card | None:
    """Return a score for each prompt set, with its findings as dots where there are some, and how far the sets differ."""
    found = next((entry for name, entry in result.metrics.items() if name.endswith("_over_prompt_sets")), None)
    if found is None:
        return None
    each = result.figures.get("wording", {})
    rows = []
    for name, value in found["sets"].items():
        shown = ends(list(each.get(name, {}).items()), lambda pair: pair[1])
        dots = [(score, f"{label} {score:.3f}") for label, score in shown]
        rows.append(cards.Row({"value": value}, name, dots=dots))
    small = "; small dots are classes, the large dot is their mean" if rows[0].dots else ""
    spread = f"Mean {found['value']:.3f}, standard deviation {found['std']:.3f}, range {found['spread']:.3f}."
    note = cards.Note(f"One row per prompt set{small}. {spread}")
    return cards.Card("Prompt sensitivity", [cards.Forest(rows, legend=False), note])


def _subgroups(family: type[Task[Any]], result: TaskResult) -> cards.Card | None:
    pieces: list[cards.Piece] = []
    for column, entry in result.entry["subgroups"].items():
        name = entry["metric"]
        scaled = next((value for key, value in entry.items() if key.startswith("es_")), None)
        gap = "" if scaled is None else f": equity-scaled {scaled:.3f}, largest gap {entry['gap']:.3f}"
        pieces.append(cards.Heading(f"{family.title(name)} by {column}{gap}"))
        if words := hidden(len(entry["groups"]), "groups"):
            pieces.append(cards.Note(words))
        shown = ends(list(entry["groups"].items()), lambda pair: pair[1]["n"])
        rows = [cards.Row(values[name], group, count=f"{values['n']:,}") for group, values in shown]
        pieces.append(cards.Forest(rows, legend=False))
    return cards.Card("Subgroups", pieces) if pieces else None
