"""The results as a markdown table for a model card, and as CSV for everything else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from .rows import title


def markdown_table(tree: Mapping[str, Any]) -> str:
    """Return the primary metrics and those with published numbers, with intervals and chance, as markdown."""
    lines = ["| task | metric | value | 95 % interval | chance | published |", "|---|---|---|---|---|---|"]
    for task in tree["tasks"]:
        if task["status"] != "ok":
            lines.append(f"| {task['id']} | | {task['status']} | | | |")
            continue
        for name, one in task["metrics"].items():
            published = "; ".join(f"{r['model']} {r['value']:.3f}" for r in task["references"] if r["metric"] == name)
            if not one.get("primary") and not published:
                continue
            value = "undefined" if one["value"] is None else f"{one['value']:.3f}"
            bounds = f"{one['ci'][0]:.3f} – {one['ci'][1]:.3f}" if "ci" in one else ""
            chance = f"{one['chance']:.3f}" if "chance" in one else ""
            lines.append(f"| {task['id']} | {title(name)} | {value} | {bounds} | {chance} | {published} |")
    return "\n".join(lines) + "\n"


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
