"""Charts as inline SVG. Colours are classes of style.css, so that a chart follows light and dark; text stays readable on a
phone because view boxes are small and charts are laid side by side, not shrunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]


class Frame:
    """A plot of `width` x `height` with axes: x in [x0, x1], y in [y0, y1]. Elements are added, then it is rendered."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        size: tuple[int, int] = (300, 220),
        margin: tuple[int, int, int, int] = (10, 10, 34, 40),
    ) -> None:
        self.x, self.y, self.size, self.margin = x, y, size, margin
        self._parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in the view box."""
        top, right, bottom, left = self.margin
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return left + across * (self.size[0] - left - right), self.size[1] - bottom - up * (self.size[1] - top - bottom)

    def note(self, x: float, y: float, style: str, anchor: str, words: str) -> None:
        """Add text at a place of the view box."""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{style}" {place}>{escape(words)}</text>')

    def line(self, points: Points, style: str = "line") -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self._parts.append(f'<polyline class="{style}" points="{places}"/>')

    def area(self, low: Points, high: Points, style: str = "band") -> None:
        places = [self.at(*point) for point in [*low, *reversed(high)]]
        self._parts.append(f'<polygon class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')

    def dot(self, x: float, y: float, radius: float = 3, style: str = "dot", title: str = "") -> None:
        left, top = self.at(x, y)
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(f'<circle class="{style}" cx="{left:.1f}" cy="{top:.1f}" r="{radius:.1f}">{inner}</circle>')

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str) -> None:
        """Draw a light grid with numbers and titles."""
        top, right, bottom, left = self.margin
        width, height = self.size
        for tick in x_ticks:
            place = self.at(tick, self.y[0])[0]
            ends = f'x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{height - bottom}"'
            self._parts.append(f'<line class="grid" {ends}/>')
            self.note(place, height - bottom + 13, "tick", "middle", number(tick))
        for tick in y_ticks:
            place = self.at(self.x[0], tick)[1]
            ends = f'x1="{left}" x2="{width - right}" y1="{place:.1f}" y2="{place:.1f}"'
            self._parts.append(f'<line class="grid" {ends}/>')
            self.note(left - 5, place + 3.5, "tick", "end", number(tick))
        middle = left + (width - left - right) / 2
        self.note(middle, height - 4, "title", "middle", x_title)
        if y_title:
            up = top + (height - top - bottom) / 2
            turn = f'transform="rotate(-90 9 {up:.1f})"'
            self._parts.append(
                f'<text class="title" x="9" y="{up:.1f}" text-anchor="middle" {turn}>{escape(y_title)}</text>'
            )

    def svg(self, label: str) -> Markup:
        width, height = self.size
        wide = " wide" if width > 300 else ""
        head = f'<svg class="chart{wide}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        return Markup(head + "".join(self._parts) + "</svg>")


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


def roc(curve: Mapping[str, Any]) -> Markup:
    """Draw one class's ROC with its band."""
    frame = Frame((0, 1), (0, 1), (216, 186), (8, 8, 32, 28))
    frame.axes([0, 0.5, 1], [0, 0.5, 1], "false-positive rate", "")
    frame.line([(0, 0), (1, 1)], "chance")
    frame.area(list(zip(curve["fpr"], curve["low"], strict=True)), list(zip(curve["fpr"], curve["high"], strict=True)))
    frame.line([(0, 0), *zip(curve["fpr"], curve["tpr"], strict=True)])
    return frame.svg(f"ROC of {curve['name']}, AUROC {curve['auroc']:.3f}")


def precision_recall(curve: Mapping[str, Any]) -> Markup:
    """Draw one class's precision-recall curve with its band; the dashed line is its prevalence."""
    frame = Frame((0, 1), (0, 1), (216, 186), (8, 8, 32, 28))
    frame.axes([0, 0.5, 1], [0, 0.5, 1], "recall", "")
    frame.line([(0, curve["prevalence"]), (1, curve["prevalence"])], "chance")
    if "pr_low" in curve:
        grid = [at / (len(curve["pr_low"]) - 1) for at in range(len(curve["pr_low"]))]
        frame.area(list(zip(grid, curve["pr_low"], strict=True)), list(zip(grid, curve["pr_high"], strict=True)))
    frame.line(list(zip(curve["recall"], curve["precision"], strict=True)))
    return frame.svg(f"precision-recall of {curve['name']}")


def training(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw the loss against samples seen, smoothed, with the validation loss where it was logged; None without a loss."""
    key = "samples" if any("samples" in row for row in rows) else "step"
    known = [row for row in rows if "loss" in row and key in row]
    pairs = [(row[key], row["loss"]) for row in known if row.get("event", "train") == "train"]
    held_out = [(row[key], row["loss"]) for row in known if row.get("event") == "validate"]
    if len(pairs) < 2:
        return None
    values = sorted(loss for _, loss in pairs + held_out)
    low, high = values[0], values[max(0, int(0.995 * (len(values) - 1)))]
    pad = 0.05 * (high - low) or 1
    frame = Frame((0, max(x for x, _ in pairs)), (low - pad, high + pad), (640, 260), (10, 14, 36, 58))
    frame.axes(ticks(0, frame.x[1], 5), ticks(low, high, 4), f"{key} seen" if key == "samples" else key, "loss")
    inside = [(x, min(y, frame.y[1])) for x, y in pairs]
    frame.line(inside, "faint")
    frame.line(smooth(inside), "line")
    if held_out:
        frame.line(held_out, "line second")
        frame.dot(*held_out[-1], 3.2, "dot second", f"validation {held_out[-1][1]:.3f}")
    return frame.svg("training loss")


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return running means over about a thirtieth of the points, centred."""
    reach = max(1, len(points) // 60)
    parts = (points[max(0, at - reach) : at + reach + 1] for at in range(len(points)))
    return [(x, fmean(y for _, y in part)) for (x, _), part in zip(points, parts, strict=True)]


def reliability(entries: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the observed share against the predicted probability, a dot per bin, its area by count."""
    frame = Frame((0, 1), (0, 1), (400, 300), (10, 10, 36, 58))
    frame.axes([0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1], "predicted probability", "observed share")
    frame.line([(0, 0), (1, 1)], "chance")
    for entry, style in zip(entries, ("", " second"), strict=False):
        points = [(bin["confidence"], bin["accuracy"], bin["count"]) for bin in entry["bins"]]
        frame.line([(x, y) for x, y, _ in points], "line" + style)
        most = max((count for _, _, count in points), default=1)
        for x, y, count in points:
            words = f"{count} cases: predicted {x:.2f}, observed {y:.2f}"
            frame.dot(x, y, 2 + 5 * (count / most) ** 0.5, "dot" + style, words)
    return frame.svg("reliability diagram")


def rank_curve(series: Mapping[str, Sequence[float]], gallery: int) -> Markup:
    """Draw the share of queries with a right answer in the top k, against k on a log scale; dashed is chance."""
    top = max(10, gallery)
    frame = Frame((0, log10(top)), (0, 1), (420, 280), (10, 12, 36, 58))
    marks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000, 100000) if k <= top]
    wide = [k for k in marks if str(k)[0] == "1" or len(marks) < 7]
    frame.axes([], [0, 0.25, 0.5, 0.75, 1], "k (log scale)", "R@k")
    for k in wide:
        frame.line([(log10(k), 0), (log10(k), 1)], "grid")
        left, bottom = frame.at(log10(k), 0)
        frame.note(left, bottom + 13, "tick", "middle", number(k))
    grid = [10 ** (log10(top) * step / 60) for step in range(61)]
    frame.line([(log10(k), min(1.0, k / gallery)) for k in grid], "chance")
    for (_, places), style in zip(series.items(), ("", " second"), strict=False):
        frame.line([(log10(k), sum(1 for place in places if place <= k) / len(places)) for k in grid], "line" + style)
    return frame.svg("R@k for every k")
