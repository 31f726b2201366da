"""A row of a forest plot: the places of a score, its interval and its marks on a track."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Scale = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A row of a forest plot, places in percent of the track. `fill` (left, width) lies between 0 and the value, `marks`
    are (place, kind, words), `dots` (place, words). A row without a value says the `reason`.
    """

    title: str
    value: float | None
    text: str = ""
    bounds: str = ""
    place: float = 0.0
    fill: tuple[float, float] = (0.0, 0.0)
    low: float | None = None
    high: float | None = None
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    dots: list[tuple[float, str]] = field(default_factory=list)
    style: str = ""
    count: str = ""
    reason: str = ""


def row(
    entry: Mapping[str, Any],
    title: str,
    scale: Scale = (0.0, 1.0),
    references: Sequence[Mapping[str, Any]] = (),
    style: str = "",
    count: str = "",
    dots: Iterable[tuple[float, str]] = (),
) -> Row:
    """Return the forest row of a metric's entry in the results; `count` stands beside the title, `dots` are (value, words)."""
    if entry["value"] is None:
        return Row(title, None, count=count, reason=entry.get("reason", "undefined"))

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - scale[0]) / (scale[1] - scale[0]))), 2)

    marks = [(place(entry[kind]), kind, f"{kind} {entry[kind]:.3f}") for kind in ("chance", "oracle") if kind in entry]
    for reference in references:
        words = f"{reference['model']} {reference['value']:.3f} ({reference['source']}; {reference['tag']})"
        marks.append((place(reference["value"]), "reference", words))
    bounds = entry.get("ci")
    return Row(
        title=title,
        value=entry["value"],
        text=f"{entry['value']:.3f}",
        bounds=f"{bounds[0]:.3f} to {bounds[1]:.3f}{' ?' if 'unreliable' in entry else ''}" if bounds else "",
        place=place(entry["value"]),
        fill=(min(place(0.0), place(entry["value"])), round(abs(place(entry["value"]) - place(0.0)), 2)),
        low=place(bounds[0]) if bounds else None,
        high=place(bounds[1]) if bounds else None,
        marks=marks,
        dots=[(place(value), words) for value, words in dots],
        style=style,
        count=count,
    )


def references_of(task: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the published numbers that stand beside a metric, or beside the main metric of a class."""
    return [reference for reference in task["references"] if reference["metric"] == name]


def mark_kinds(rows: Iterable[Row]) -> set[str]:
    """Return which sorts of marks occur in rows: chance, oracle, reference, interval, control."""
    rows = list(rows)
    kinds = {kind for entry in rows for _, kind, _ in entry.marks} | {entry.style for entry in rows}
    return kinds | ({"interval"} if any(entry.bounds for entry in rows) else set())


def scale_of(entries: Iterable[Mapping[str, Any]], bounded: bool = True) -> Scale:
    """Return a track's range for metrics with their intervals and chance: at least [0, 1], [-0.5, 2] where not `bounded`."""
    values = [
        value
        for entry in entries
        if entry["value"] is not None
        for value in (entry["value"], *entry.get("ci", ()), *([entry["chance"]] if "chance" in entry else ()))
    ]
    if not bounded:
        return min(0.0, -0.5, *values), max(2.0, *values) * 1.05
    low = min([0.0, *values])
    return (low if low >= 0 else min(low, -0.2)), max([1.0, *values])
