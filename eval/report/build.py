"""Put a run folder on one page: results, per-sample rows and figures in, a self-contained report.html out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from vlp.core.output import write_whole
from vlp.core.untrusted import read_json

from .. import results as result_files
from ..drawing import charts
from ..drawing.cards import Row, mark_kinds, references_of, scale_of
from ..drawing.wording import SIDE, cut, interval_words
from ..tasks.base import family_of, is_unbounded, worded

FOLDER = Path(__file__).parent
FILE = "report.html"


def write(out: Path) -> Path:
    """Write `report.html` of a run folder and return its path. Needs neither the model nor the data."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    tree = result_files.read(out)
    scored = result_files.scored(out, tree)
    figures = (task.figures.get("samples") for task in scored.values())
    samples: list[dict[str, Any]] = next(filter(None, figures), [])
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=cut,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = with_code
    page = environment.get_template("page.html").render(
        css=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        tree=tree,
        fewer=fewer_resamples(tree),
        sections=[section(task, scored) for task in tree["tasks"]],
        cards=headlines(tree),
        training=_training(out),
        samples=samples,
        hue=hues(samples),
        kind_of=lambda piece: type(piece).__name__,
        interval=interval_words,
        number=format_number,
        tick_words=charts.number,
        mark_kinds=mark_kinds,
        shown=2 * SIDE,
        fresh=count().__next__,
    )
    write_whole(out / FILE, page)
    return out / FILE


def with_code(text: str) -> Markup:
    """Return a text for the page, what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def format_number(value: Any) -> str:
    """Return a number as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def headlines(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline of the page: the primary metrics of all tasks, each with its controls."""
    result = []
    for task in tree["tasks"]:
        family, metrics = family_of(task["family"]), task.get("metrics", {})
        for name, metric in metrics.items():
            if not metric.get("primary") or metric["value"] is None:
                continue
            scale = scale_of([metric], bounded=not is_unbounded(family, name))
            row = Row(metric, family.title(name), scale, references_of(task, name))
            count = metric.get("n", metric.get("n_queries", task["data"]["n"]))
            values = {words: metrics.get(f"{name}_{key}", {}).get("value") for key, words in family.controls.items()}
            controls = ", ".join(f"{words} {value:.3f}" for words, value in values.items() if value is not None)
            meaning = worded(family.meanings, name)
            result.append({"task": task["id"], "row": row, "n": count, "meaning": meaning, "controls": controls})
    return result


def fewer_resamples(tree: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return the metrics whose intervals are of fewer resamples than the run's, by their number."""
    found: dict[int, dict[str, None]] = {}
    for task in tree["tasks"]:
        for name, metric in task.get("metrics", {}).items():
            if metric.get("n_boot", tree["settings"]["resamples"]) < tree["settings"]["resamples"]:
                found.setdefault(metric["n_boot"], {})[family_of(task["family"]).title(name)] = None
    return {count: list(names) for count, names in found.items()}


def section(task: Mapping[str, Any], scored: Mapping[str, result_files.TaskResult]) -> dict[str, Any]:
    """Return what the page shows of one task: its cards are of its family's making."""
    family = family_of(task["family"])
    cards = family.section(scored[task["id"]]) if task["id"] in scored else []
    return {"task": task, "title": family.title, "cards": cards}


HUES = ("#5ec8ff", "#ffb454", "#7ee08a", "#ff7b9c", "#c9a4ff", "#ffe066", "#4fe0d0", "#ff9a6b", "#9fb6ff", "#d8d8d8")


def hues(samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a colour for each label of the sample images, bright enough on a radiograph."""
    labels = sorted({box["label"] for sample in samples for box in sample["boxes"]})
    return {label: HUES[at % len(HUES)] for at, label in enumerate(labels)}


def _training(out: Path) -> dict[str, Any] | None:
    """Return the loss curve and the facts beside it; None for a model whose training left no log."""
    path = out / "training.json"
    if not path.is_file():
        return None
    rows = read_json(path)
    chart = charts.training(rows)
    trained = [row for row in rows if row.get("event", "train") == "train"]
    if chart is None:
        return None
    facts = [("Steps", f"{max(row['step'] for row in rows):,}")]
    if "samples" in trained[-1]:
        facts.append(("Samples seen", f"{trained[-1]['samples']:,}"))
    facts += [("First loss", f"{trained[0]['loss']:.3f}"), ("Last loss", f"{trained[-1]['loss']:.3f}")]
    held_out = [row["loss"] for row in rows if row.get("event") == "validate"]
    if held_out:
        facts += [("Best validation loss", f"{min(held_out):.3f}"), ("Last validation loss", f"{held_out[-1]:.3f}")]
    return {"chart": chart, "facts": facts}
