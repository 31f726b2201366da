"""The results as a markdown table for a model card, and as CSV for everything else."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from .rows import references_of, title

Entry = Mapping[str, Any]


def beside_published(task: Entry) -> list[tuple[str, str, Entry, list[Entry]]]:
    """Return (name, name in words, score, published numbers) of each metric and class's AUROC that has some."""
    scores = [(name, name, title(name), one) for name, one in task["metrics"].items()]
    for label, one in task["per_class"].items():
        if "auroc" in one:
            words = f"AUROC of {label}"
            scores.append((label, words, words, one["auroc"]))
    return [(name, words, one, found) for key, name, words, one in scores if (found := references_of(task, key))]


def published_words(references: Sequence[Entry]) -> str:
    """Return published numbers, best first, with where they were read."""
    ordered = sorted(references, key=lambda one: -one["value"])
    numbers = ", ".join(f"{one['model']} {one['value']:.3f}" for one in ordered)
    return f"{numbers} ({'; '.join(dict.fromkeys(one['source'] for one in ordered))})"


def markdown_table(tree: Mapping[str, Any]) -> str:
    """Return the primary metrics and those with published numbers, with intervals and chance, as markdown."""
    lines = ["| task | metric | value | 95 % interval | chance | published |", "|---|---|---|---|---|---|"]
    for task in tree["tasks"]:
        if task["status"] != "ok":
            lines.append(f"| {task['id']} | | {task['status']} | | | |")
            continue
        published = {name: (words, one, published_words(found)) for name, words, one, found in beside_published(task)}
        main = {name: (title(name), one, "") for name, one in task["metrics"].items() if one.get("primary")}
        for words, one, numbers in (main | published).values():
            value = "undefined" if one["value"] is None else f"{one['value']:.3f}"
            bounds = f"{one['ci'][0]:.3f} – {one['ci'][1]:.3f}" if "ci" in one else ""
            chance = f"{one['chance']:.3f}" if "chance" in one else ""
            doubt = " (unreliable)" if "unreliable" in one else ""
            lines.append(f"| {task['id']} | {_cell(words)} | {value} | {bounds}{doubt} | {chance} | {_cell(numbers)} |")
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
        entries = [("", name, one) for name, one in task.get("metrics", {}).items()]
        for label, values in task.get("per_class", {}).items():
            entries += [(label, name, one) for name, one in values.items() if isinstance(one, dict) and "value" in one]
        for label, name, one in entries:
            low, high = one.get("ci", ("", ""))
            value = "" if one["value"] is None else one["value"]
            writer.writerow([task["id"], label, name, value, low, high, one.get("chance", ""), one.get("reason", "")])
    return out.getvalue()
