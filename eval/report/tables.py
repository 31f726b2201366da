"""The results as a markdown table for a model card, and as CSV for everything else."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..drawing.cards import references_of
from ..drawing.wording import chance_words, interval_words, value_words
from ..tasks.base import family_of

Entry = Mapping[str, Any]


def beside_published(task: Entry) -> list[tuple[str, str, Entry, list[Entry]]]:
    """Return (name, name in words, score, published numbers) of each metric, and main metric of a class, that has some."""
    family = family_of(task["family"])
    scores = [(name, name, family.title(name), metric) for name, metric in task["metrics"].items()]
    main = family.class_metrics(task)[:1]
    for label, values in task["per_class"].items():
        for name in (name for name in main if name in values):
            words = f"{family.title(name)} of {label}"
            scores.append((label, words, words, values[name]))
    return [(name, words, metric, found) for key, name, words, metric in scores if (found := references_of(task, key))]


def published_words(references: Sequence[Entry]) -> str:
    """Return published numbers, best first, with where they were read."""
    ordered = sorted(references, key=lambda reference: -reference["value"])
    numbers = ", ".join(f"{reference['model']} {reference['value']:.3f}" for reference in ordered)
    return f"{numbers} ({'; '.join(dict.fromkeys(reference['source'] for reference in ordered))})"


def markdown_table(tree: Mapping[str, Any]) -> str:
    """Return the primary metrics and those with published numbers, with intervals and chance, as markdown."""
    lines = ["| task | metric | value | 95 % interval | chance | published |", "|---|---|---|---|---|---|"]
    for task in tree["tasks"]:
        if task["status"] != "ok":
            lines.append(f"| {task['id']} | | {task['status']} | | | |")
            continue
        title = family_of(task["family"]).title
        main = {name: (title(name), metric, "") for name, metric in task["metrics"].items() if metric.get("primary")}
        published = {
            name: (words, metric, published_words(found)) for name, words, metric, found in beside_published(task)
        }
        for words, metric, numbers in (main | published).values():
            cells = (task["id"], words, value_words(metric), interval_words(metric), chance_words(metric), numbers)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _cell(text: object) -> str:
    """Return a text for a cell of a markdown table: no bar, line end or HTML of the data's own."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def csv_table(tree: Mapping[str, Any]) -> str:
    """Return every metric of every task and class as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "class", "metric", "value", "low", "high", "chance", "reason"])
    for task in tree["tasks"]:
        for label, values in (("", task.get("metrics", {})), *task.get("per_class", {}).items()):
            for name, metric in values.items():
                if isinstance(metric, dict) and "value" in metric:
                    facts = (*metric.get("ci", (None, None)), metric.get("chance"), metric.get("reason"))
                    writer.writerow([task["id"], label, name, metric["value"], *facts])
    return out.getvalue()
