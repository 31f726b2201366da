"""What the page says of a metric: its title, and the geometry of its row in a forest plot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..tasks.controls import CONTROLS

TITLES = {
    "auroc_macro": "AUROC, mean of findings",
    "ap_macro": "Average precision, mean of findings",
    "auroc_macro_over_prompt_sets": "AUROC, mean over wordings",
    "accuracy_over_prompt_sets": "Accuracy, mean over wordings",
    "accuracy_macro": "Accuracy of decisions",
    "balanced_accuracy_macro": "Balanced accuracy of decisions",
    "f1_macro": "F1, macro",
    "kappa_macro": "Cohen's kappa",
    "mcc_macro": "Matthews correlation",
    "ece_macro": "Calibration error (ECE), mean of findings",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "kappa": "Cohen's kappa",
    "mcc": "Matthews correlation",
    "ece": "Calibration error (ECE) of the answers",
    "pointing": "Pointing game",
    "pointing_minus_shuffled": "Pointing game, above the shuffled image",
    "cnr": "Contrast to noise (signed)",
    "cnr_absolute": "Contrast to noise (absolute)",
    "miou": "mIoU over thresholds .1 to .5",
    "pointing_macro": "Pointing game, mean of findings",
    "cnr_macro": "Contrast to noise (signed), mean of findings",
    "cnr_absolute_macro": "Contrast to noise (absolute), mean of findings",
    "miou_macro": "mIoU over thresholds .1 to .5, mean of findings",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel average precision",
    "dice": "Dice",
    "iou": "IoU",
    "box_iou": "IoU of the map's box",
    "iobb": "IoBB of the map's box",
    "nsd": "Surface Dice (NSD)",
    "hd95": "Surface distance, 95th percentile (pixels)",
    "map": "Mean average precision",
    "auroc_corrupted": "AUROC on damaged images, mean",
    "notices_wrong_report": "Notices another patient's report",
    "notices_wrong_side": "Notices the wrong side",
    "notices_negation": "Notices turned-around findings",
}
DIRECTIONS = {"i2t": "Image to report", "t2i": "Report to image"}


def title(name: str) -> str:
    """Return a metric's name in words."""
    if name in TITLES:
        return TITLES[name]
    if name.startswith("bare_"):
        return f"{title(name.removeprefix('bare_'))}, phrase without a place"
    for control, words in CONTROLS.items():
        if name.endswith(f"_{control}"):
            return f"{title(name.removesuffix(f'_{control}'))}: {words}"
    found = re.fullmatch(r"(i2t|t2i)_(.+)", name)
    if found:
        rest = found[2]
        pooled = re.fullmatch(r"r@(\d+)_pool_(\d+)", rest)
        if pooled:
            return f"{DIRECTIONS[found[1]]}, R@{pooled[1]} in pools of {pooled[2]}"
        words = {"median_rank": "median rank", "mrr": "mean reciprocal rank"}.get(rest, rest)
        words = words.replace("recall@", "true recall@") if rest.startswith("recall") else words.replace("r@", "R@")
        return f"{DIRECTIONS[found[1]]}, {words}"
    probe = re.fullmatch(r"auroc_([\d.]+)", name)
    if probe:
        return f"AUROC of a probe on {100 * float(probe[1]):g} % of the training images"
    return worded(TITLE_PATTERNS, name) or name.replace("_", " ").capitalize()


Worded = tuple[tuple[str, str], ...]
"""Patterns of metric names, and the words for them with the patterns' groups in."""


def worded(table: Worded, name: str) -> str:
    """Return the words of the first pattern that a whole name fits; empty where none does."""
    for pattern, words in table:
        if found := re.fullmatch(pattern, name):
            return words.format(*(one.replace("_", " ") for one in found.groups()))
    return ""


TITLE_PATTERNS: Worded = (
    (r"sensitivity_at_([\d.]+)_specificity_macro", "Sensitivity at {0} specificity"),
    (r"auroc_(\d+)_shots", "AUROC of a probe on {0} of each"),
    (r"p@(\d+)", "Precision among the first {0}"),
    (r"auroc_([a-z]+)", "AUROC on damaged images: {0}"),
    (r"change_([a-z]+)", "Change of the AUROC by {0}"),
    (r"ood_auroc_(.+)", "Strangers told apart, AUROC ({0})"),
    (r"fpr95_(.+)", "Strangers let in with 95 % of the set ({0})"),
    (r"ap_in_(.+)", "Average precision for the set ({0})"),
    (r"ap_out_(.+)", "Average precision for strangers ({0})"),
    (r"detection_accuracy_(.+)", "Accuracy of the best threshold ({0})"),
    (r"robustness_(index|ratio)@(\d+)", "Robustness {0}, {1} neighbours"),
)
MEANINGS: Worded = (
    (r"(i2t|t2i)_r@(\d+)", "queries with a right answer among the first {1}"),
    (r"p@(\d+)", "share of the first {0} that has the query's class"),
    (r"auroc_macro|auroc_corrupted", "how often an image with the finding scores above one without"),
    (r"auroc_[\d.]+", "how often an image with the finding scores above one without"),
    (r"accuracy", "share of images whose class is answered"),
    (r"pointing", "phrases whose map is highest inside of a box"),
    (r"cnr", "how far the map rises inside of the boxes, in units of its noise"),
    (r"dice", "overlap of the answered and the true mask"),
    (r"notices_.+", "pairs whose own text scores above the wrong one"),
    (r"ood_auroc_.+", "how often a stranger scores below an image of the set"),
    (r"robustness_index@\d+", "neighbours that share the finding and not the hospital, against the reverse"),
)


def meaning(name: str) -> str:
    """Return in a few words what a main metric counts, for those who do not know its name; empty where it has none."""
    return worded(MEANINGS, name)


@dataclass(frozen=True)
class Row:
    """A row of a forest plot, places in percent of the track. `fill` (left, width) lies between 0 and the value, `marks`
    are (place, kind, words).
    """

    title: str
    value: float
    text: str
    bounds: str
    place: float
    fill: tuple[float, float]
    low: float | None
    high: float | None
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    style: str = ""


def row(
    one: Mapping[str, Any],
    words: str,
    scale: tuple[float, float] = (0.0, 1.0),
    references: Sequence[Mapping[str, Any]] = (),
    style: str = "",
) -> Row | None:
    """Return the forest row of a metric; None where it is undefined."""
    if one["value"] is None:
        return None

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - scale[0]) / (scale[1] - scale[0]))), 2)

    marks = []
    if "chance" in one:
        marks.append((place(one["chance"]), "chance", f"chance {one['chance']:.3f}"))
    if "oracle" in one:
        marks.append((place(one["oracle"]), "oracle", f"oracle {one['oracle']:.3f}"))
    for other in references:
        words_of = f"{other['model']} {other['value']:.3f} ({other['source']}; {other['tag']})"
        marks.append((place(other["value"]), "reference", words_of))
    bounds = one.get("ci")
    return Row(
        title=words,
        value=one["value"],
        text=f"{one['value']:.3f}",
        bounds=f"{bounds[0]:.3f} – {bounds[1]:.3f}{' ?' if 'unreliable' in one else ''}" if bounds else "",
        place=place(one["value"]),
        fill=(min(place(0.0), place(one["value"])), round(abs(place(one["value"]) - place(0.0)), 2)),
        low=place(bounds[0]) if bounds else None,
        high=place(bounds[1]) if bounds else None,
        marks=marks,
        style=style,
    )


def references_of(task: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the published numbers that stand beside a metric, or beside the AUROC of a class."""
    return [one for one in task["references"] if one["metric"] == name]


def mark_kinds(rows: Iterable[Row | None]) -> set[str]:
    """Return what sorts of marks stand on the tracks of rows: chance, oracle, reference."""
    return {kind for one in rows if one for _, kind, _ in one.marks}


def scale_of(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return the track's range: [0, 1] for what lives there, wider for contrast to noise."""
    if "cnr" in name:
        return (min(0.0, *values, -0.5), max(2.0, *values) * 1.05)
    low = min([0.0, *values])
    return (low if low >= 0 else min(low, -0.2), max([1.0, *values]))
