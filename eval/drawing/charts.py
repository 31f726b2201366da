"""Charts, which `page.html` draws as inline SVG in the classes of style.css, so that they follow light and dark.

Text stays readable on a phone because view boxes are small and charts are laid side by side, not shrunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10
from statistics import fmean
from typing import Any

Points = Sequence[tuple[float, float]]
Mark = tuple[str, str, Points, float, str]
"""An SVG element, its class in style.css, its points in the view box, its radius and its words."""
UNIT = (0.0, 1.0)


@dataclass
class Frame:
    """A plot with axes from `x[0]` to `x[1]` and from `y[0]` to `y[1]`, a light grid at the ticks, and marks in order.

    `margin` is what lies around the plot in the view box: top, right, bottom, left.
    """

    label: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_title: str
    y_title: str = ""
    size: tuple[int, int] = (400, 300)
    margin: tuple[int, int, int, int] = (10, 10, 36, 58)
    marks: list[Mark] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the view box."""
        top, right, bottom, left = self.margin
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return left + across * (self.size[0] - left - right), self.size[1] - bottom - up * (self.size[1] - top - bottom)

    def add(self, element: str, style: str, points: Points, radius: float = 0, words: str = "") -> None:
        """Add a mark at points of the plot."""
        self.marks.append((element, style, [self.at(*point) for point in points], radius, words))

    def line(self, points: Points, style: str = "line") -> None:
        self.add("polyline", style, points)


def number(value: float) -> str:
    """Return a tick's text: short, with k for thousands."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that span a range."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    base = 10.0 ** floor(log10(rough))
    step = next(factor * base for factor in (1, 2, 2.5, 5, 10) if factor * base >= rough)
    first = ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, floor(high / step + 1e-9) + 1)]


def roc(curve: Mapping[str, Any]) -> Frame:
    """Return one class's ROC with its band."""
    band = [curve["fpr"], curve["low"], curve["high"]]
    points = [(0, 0), *zip(curve["fpr"], curve["tpr"], strict=True)]
    label = f"ROC of {curve['name']}, AUROC {curve['auroc']:.3f}"
    return _curve(label, "false-positive rate", points, [(0, 0), (1, 1)], band)


def precision_recall(curve: Mapping[str, Any]) -> Frame:
    """Return one class's precision-recall curve with its band; the dashed line is its prevalence."""
    band = []
    if "pr_low" in curve:
        grid = [at / (len(curve["pr_low"]) - 1) for at in range(len(curve["pr_low"]))]
        band = [grid, curve["pr_low"], curve["pr_high"]]
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    prevalence = [(0, curve["prevalence"]), (1, curve["prevalence"])]
    return _curve(f"precision-recall of {curve['name']}", "recall", points, prevalence, band)


def _curve(label: str, x_title: str, points: Points, chance: Points, band: Sequence[Sequence[float]]) -> Frame:
    """Return a small chart of a curve, with the x, low and high of its band where there is one."""
    frame = Frame(label, UNIT, UNIT, [0, 0.5, 1], [0, 0.5, 1], x_title, size=(216, 186), margin=(8, 8, 32, 28))
    frame.line(chance, "chance")
    if band:
        low, high = (list(zip(band[0], side, strict=True)) for side in band[1:])
        frame.add("polygon", "band", [*low, *reversed(high)])
    frame.line(points)
    return frame


def training(rows: Sequence[Mapping[str, Any]]) -> Frame | None:
    """Return the loss against samples seen, smoothed, with the validation loss where it was logged; None without a loss."""
    key = "samples" if any("samples" in row for row in rows) else "step"
    known = [row for row in rows if "loss" in row and key in row]
    pairs = [(row[key], row["loss"]) for row in known if row.get("event", "train") == "train"]
    held_out = [(row[key], row["loss"]) for row in known if row.get("event") == "validate"]
    if len(pairs) < 2:
        return None
    values = sorted(loss for _, loss in pairs + held_out)
    low, high = values[0], values[max(0, int(0.995 * (len(values) - 1)))]
    pad = 0.05 * (high - low) or 1
    last, title = max(x for x, _ in pairs), "samples seen" if key == "samples" else key
    x_ticks, y_ticks, span = ticks(0, last, 5), ticks(low, high, 4), (low - pad, high + pad)
    frame = Frame("training loss", (0, last), span, x_ticks, y_ticks, title, "loss", (640, 260), (10, 14, 36, 58))
    inside = [(x, min(y, frame.y[1])) for x, y in pairs]
    frame.line(inside, "faint")
    frame.line(smooth(inside), "line")
    if held_out:
        frame.line(held_out, "line second")
        frame.add("circle", "dot second", held_out[-1:], 3.2, f"validation {held_out[-1][1]:.3f}")
    return frame


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return running means over about a thirtieth of the points, centred."""
    reach = max(1, len(points) // 60)
    parts = (points[max(0, at - reach) : at + reach + 1] for at in range(len(points)))
    return [(x, fmean(y for _, y in part)) for (x, _), part in zip(points, parts, strict=True)]


def reliability(entries: Sequence[Mapping[str, Any]]) -> Frame:
    """Return the observed share against the predicted probability, a dot per bin, its area by count."""
    quarters = [0, 0.25, 0.5, 0.75, 1]
    frame = Frame("reliability diagram", UNIT, UNIT, quarters, quarters, "predicted probability", "observed share")
    frame.line([(0, 0), (1, 1)], "chance")
    for entry, style in zip(entries, ("", " second"), strict=False):
        points = [(bin["confidence"], bin["accuracy"], bin["count"]) for bin in entry["bins"]]
        frame.line([(x, y) for x, y, _ in points], "line" + style)
        most = max((count for _, _, count in points), default=1)
        for x, y, count in points:
            words = f"{count} cases: predicted {x:.2f}, observed {y:.2f}"
            frame.add("circle", "dot" + style, [(x, y)], 2 + 5 * (count / most) ** 0.5, words)
    return frame


def rank_curve(series: Mapping[str, Sequence[float]], gallery: int) -> Frame:
    """Return the share of queries with a right answer in the top k, against k on a log scale; dashed is chance."""
    top = max(10, gallery)
    span, quarters = (0, log10(top)), [0, 0.25, 0.5, 0.75, 1]
    frame = Frame("R@k for every k", span, UNIT, [], quarters, "k (log scale)", "R@k", (420, 280), (10, 12, 36, 58))
    marks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000, 100000) if k <= top]
    wide = [k for k in marks if str(k)[0] == "1" or len(marks) < 7]
    for k in wide:
        frame.line([(log10(k), 0), (log10(k), 1)], "grid")
        frame.add("text", "tick", [(log10(k), 0)], words=number(k))
    grid = [10 ** (log10(top) * step / 60) for step in range(61)]
    frame.line([(log10(k), min(1.0, k / gallery)) for k in grid], "chance")
    for (_, places), style in zip(series.items(), ("", " second"), strict=False):
        frame.line([(log10(k), sum(1 for place in places if place <= k) / len(places)) for k in grid], "line" + style)
    return frame
