"""Printing to the terminal: control characters of the data are escaped, long lists are cut and counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlp.core.errors import printable

from ..drawing.wording import chance_words, interval_words, value_words
from ..tasks.base import family_of

LINES = 10
CLASSES = 20
"""So many warnings and classes of a task are printed; `results.json` holds all."""

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)  # a pipe has no width; do not cut names for it


def line(text: object) -> str:
    """Return a text on one line."""
    return re.sub(r"\s*[\n\t]\s*", " ", printable(str(text)))


def say(text: object) -> None:
    """Print a line."""
    console.print(line(text), markup=False, soft_wrap=True)


def print_text(text: str, end: str = "\n") -> None:
    """Print a text of several lines as it is, but for its control characters."""
    console.print(printable(text), markup=False, soft_wrap=True, end=end)


def add_row(table: Table, *cells: object, style: str | None = None) -> None:
    """Add cells to a table as they are: nothing in them is markup."""
    table.add_row(*(Text(line(cell)) for cell in cells), style=style)


def new_table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def headline(entry: Mapping[str, Any]) -> str:
    """Return the primary metrics of a task in one line, each with its controls."""
    parts = []
    for name, metric in entry["metrics"].items():
        if metric.get("primary") and metric["value"] is not None:
            bounds = f", 95 % interval {interval_words(metric)}" if "ci" in metric else ""
            chance = f", chance {chance_words(metric)}" if "chance" in metric else ""
            controls = ", ".join(
                f"{key.removeprefix(f'{name}_')} {value_words(control)}"
                for key, control in entry["metrics"].items()
                if control.get("control_of") == name and control["value"] is not None
            )
            parts.append(f"{name} {value_words(metric)}{bounds}{chance}{controls and f', controls: {controls}'}")
    return "; ".join(parts)


def warnings_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the first warnings of a task, and how many more there are."""
    first, more = entry["warnings"][:LINES], len(entry["warnings"]) - LINES
    return [*first, f"and {more} more warnings in results.json"] if more > 0 else first


def summary_table(tree: Mapping[str, Any]) -> Table:
    """Return the main metrics of a run, with the controls of the primary ones and the scores of each class, as a table."""
    table = new_table("task", "metric", "value", "95 % interval", "chance", "n")
    for task in tree["tasks"]:
        if task["status"] != "ok":
            add_row(table, task["id"], f"{task['status']}: see above")
            continue
        name, metrics = task["id"], task["metrics"]
        for key, metric in metrics.items():
            base = metric.get("control_of")
            if base and not metrics[base].get("primary"):
                continue  # the page shows the controls of every score, the console those of the main ones
            count = str(task["data"]["n"]) if name else ""
            add_row(table, name, key, *_numbers(metric), count, style="bold" if metric.get("primary") else None)
            name = ""
        for key, metric, count in _of_classes(task):
            add_row(table, "", key, *_numbers(metric), count)
        hidden = len(task.get("per_class", {})) - CLASSES
        if hidden > 0:
            add_row(table, "", f"and {hidden} more classes in results.json")
    return table


def _numbers(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    return value_words(metric), interval_words(metric), chance_words(metric)


def _of_classes(task: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    names = family_of(task["family"]).class_metrics(task)
    for label, values in list(task["per_class"].items())[:CLASSES]:
        count = values.get("n", values.get("n_pos", ""))
        yield from ((f"{name} of {label}", values[name], str(count)) for name in names if name in values)
