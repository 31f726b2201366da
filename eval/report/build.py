"""Put a run folder on one page: results, per-sample rows and figures in, a self-contained report.html out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from vlp.core.untrusted import inside, read_json

from .. import results as result_files
from ..embeddings.cache import write_text
from ..tasks.controls import CONTROLS
from . import charts
from .rows import Row, mark_kinds, meaning, references_of, row, scale_of, title
from .shown import SIDE, cut, ends, hidden
from .terminal import main_of_classes

FOLDER = Path(__file__).parent
FILE = "report.html"


def write(out: Path) -> Path:
    """Write `report.html` of a run folder and return its path. Needs neither the model nor the data."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    tree = result_files.read(out)
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
        sections=[section(out, one) for one in tree["tasks"]],
        cards=cards(tree),
        training=_training(out),
        samples=_samples(out, tree),
        hue=hues(tree, out),
        title=title,
        number=format_number,
        mark_kinds=mark_kinds,
        hidden=hidden,
        shown=2 * SIDE,
    )
    path = out / FILE
    write_text(path, page)
    return path


def with_code(text: str) -> Markup:
    """Return a text for the page, what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def format_number(value: Any) -> str:
    """Return a number as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def cards(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline of the page: the primary metrics of all tasks."""
    result = []
    for task in tree["tasks"]:
        for name, one in task.get("metrics", {}).items():
            if not one.get("primary") or one["value"] is None:
                continue
            entry = row(one, title(name), scale_of(name, _numbers(one)), references_of(task, name))
            count = one.get("n", one.get("n_queries", task["data"]["n"]))
            known = {head: task["metrics"].get(f"{name}_{key}", {}).get("value") for key, head in HEADS.items()}
            controls = ", ".join(f"{head} {value:.3f}" for head, value in known.items() if value is not None)
            result.append(
                {"task": task["id"], "row": entry, "n": count, "meaning": meaning(name), "controls": controls}
            )
    return result


def fewer_resamples(tree: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return the metrics whose intervals are of fewer resamples than the run's, by their number."""
    found: dict[int, list[str]] = {}
    for name, one in (pair for task in tree["tasks"] for pair in task.get("metrics", {}).items()):
        if one.get("n_boot", tree["settings"]["resamples"]) < tree["settings"]["resamples"]:
            names = found.setdefault(one["n_boot"], [])
            names += [title(name)] if title(name) not in names else []
    return found


def _numbers(one: Mapping[str, Any]) -> list[float]:
    return [one["value"], *one.get("ci", []), *([one["chance"]] if "chance" in one else [])]


def section(out: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of one task."""
    if task["status"] != "ok":
        return {"task": task, "family": "none"}
    figures: dict[str, Any] = {"grid": [], "examples": [], "calibration": []}  # none of a run without a page
    if task.get("figures") and inside(out, task["figures"]).is_file():
        figures |= read_json(inside(out, task["figures"]))
    content: dict[str, Any] = {"task": task, "figures": figures, "family": task["family"], "rows": forest(task)}
    content["published"] = published(task)
    if task["family"] == "classification":
        content |= classification(task, figures)
    elif task["family"] == "retrieval":
        content |= retrieval(out, task)
    elif any("control_of" in one for one in task["metrics"].values()):
        content |= maps(task)
    return content


def forest(task: Mapping[str, Any]) -> list[Row]:
    """Return the rows of all metrics that are fractions and no control of another."""
    rows = []
    for name, one in task["metrics"].items():
        if (
            one["value"] is None
            or "control_of" in one
            or "rank" in name
            or "cnr" in name
            or not -1 <= one["value"] <= 1
        ):
            continue
        references = references_of(task, name)
        entry = row(one, title(name), scale_of(name, _numbers(one)), references, "main" if one.get("primary") else "")
        if entry:
            rows.append(entry)
    return rows


def published(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the published numbers of a task's own metrics, best first, with where they were read."""
    result = []
    for name in task["metrics"]:
        found = sorted(references_of(task, name), key=lambda one: -one["value"])
        if found:
            numbers = [(one["model"], one["value"]) for one in found]
            sources = dict.fromkeys(one["source"] for one in found)
            result.append({"title": title(name), "numbers": numbers, "sources": "; ".join(sources)})
    return result


def published_of_classes(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the published AUROCs of classes, those of a model together, in the order of the classes."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name in task["per_class"]:
        for one in references_of(task, name):
            found.setdefault((one["model"], one["source"]), []).append((name, one["value"]))
    return [{"title": model, "numbers": numbers, "sources": source} for (model, source), numbers in found.items()]


def classification(task: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    per_class = []
    for name, one in ends(list(task["per_class"].items()), lambda pair: pair[1]["auroc"]["value"]):
        entry = row(one["auroc"], name, (0.0, 1.0), references_of(task, name))
        per_class.append({"name": name, "row": entry, "n_pos": one["n_pos"], "n_neg": one["n_neg"], "all": one})
    groups = []
    for column, one in task["subgroups"].items():
        key, entries = one.get("metric", "auroc_macro"), []
        for name, values in ends(list(one["groups"].items()), lambda pair: pair[1]["n"]):
            entry = row(values[key], name, (0.0, 1.0))
            entries.append({"name": name, "n": values["n"], "row": entry, "reason": values[key].get("reason")})
        scaled = next((value for name, value in one.items() if name.startswith("es_")), None)
        groups.append({"column": column, "entries": entries, "all": one, "title": title(key), "scaled": scaled})
    return {
        "per_class": per_class,
        "published_of_classes": published_of_classes(task),
        "groups": groups,
        "rocs": [
            {"curve": one, "roc": charts.roc(one), "pr": charts.precision_recall(one)}
            for one in figures.get("curves", [])
        ],
        "reliability": charts.reliability(figures["calibration"]) if figures.get("calibration") else None,
        "confusion": confusion(figures.get("confusion")),
        "wording": wording(task, figures.get("wording", {})),
    }


def confusion(figure: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the matrix with each cell's share of its row."""
    if figure and figure.get("pairs"):
        return {"title": figure["title"], "pairs": figure["pairs"], "n_classes": figure["n_classes"]}
    if not figure or not any(map(sum, figure.get("counts", ()))) or len(figure["classes"]) > 2 * SIDE:
        return None
    rows = []
    for name, counts in zip(figure["classes"], figure["counts"], strict=True):
        total = sum(counts)
        rows.append({"name": name, "total": total, "cells": [(one, one / total if total else 0.0) for one in counts]})
    return {"title": figure["title"], "classes": figure["classes"], "rows": rows}


def wording(task: Mapping[str, Any], dots: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """Return a score for each prompt set, with its findings as dots where there are some, and how far the sets differ."""
    found = [one for name, one in task["metrics"].items() if name.endswith("_over_prompt_sets")]
    if not found:
        return None
    lines = []
    for name, value in found[0]["sets"].items():
        shown = ends(list(dots.get(name, {}).items()), lambda pair: pair[1])
        marks = [(round(100 * one, 2), f"{finding} {one:.3f}") for finding, one in shown]
        lines.append({"name": name, "value": value, "place": round(100 * value, 2), "dots": marks})
    return {"lines": lines, "all": found[0]}


def retrieval(out: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    rows = result_files.read_samples(out, task)
    series = {
        name: [float(one[key]) for one in rows if key in one]
        for key, name in (("rank_i2t", "image to report"), ("rank_t2i", "report to image"))
    }
    series = {name: places for name, places in series.items() if places}
    return {
        "curve": charts.rank_curve(series, task["scoring"]["gallery_images"]) if series else None,
        "series": list(series),
    }


def maps(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main scores of maps beside their controls, for phrases with a place and without, and those of findings."""
    blocks = []
    bare = any(name.startswith("bare_") for name in task["metrics"])
    kinds = [("", "phrases that name the place"), ("bare_", "phrases without a place")] if bare else [("", "")]
    for name in (name for name, one in task["metrics"].items() if one.get("primary")):
        for prefix, words in kinds:
            metrics = {
                key: task["metrics"].get(f"{prefix}{name}{key}") for key in ("", *(f"_{one}" for one in CONTROLS))
            }
            known = [value for one in metrics.values() if one and one["value"] is not None for value in _numbers(one)]
            if not known or metrics[""] is None:
                continue
            scale = scale_of(name, known)
            rows = [row(metrics[""], "the model", scale, (), "main")]
            rows += [
                row(metrics[f"_{key}"], text, scale, (), "control")
                for key, text in CONTROLS.items()
                if metrics[f"_{key}"] and metrics[f"_{key}"]["value"] is not None
            ]
            blocks.append({"title": title(name), "words": words, "rows": [one for one in rows if one]})
    main = next(iter(main_of_classes(task)), "")
    shown = ends(list(task["per_class"].items()), lambda pair: pair[1][main]["value"]) if main else []
    per_class = [{"name": name, "n": one["n"], "row": row(one[main], name), "all": one} for name, one in shown]
    return {
        "family": "maps",
        "blocks": blocks,
        "per_class": per_class,
        "of_class": title(main),
        "heads": [HEADS[one] for one in CONTROLS],
        "beside": beside(task),
    }


def beside(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each score with its controls, for phrases that name a place; means of findings have none."""
    metrics = task["metrics"]
    table = []
    for name in metrics:
        controls = [f"{name}_{one}" for one in CONTROLS]
        if not name.startswith("bare_") and (any(one in metrics for one in controls) or name.endswith("_macro")):
            scores = [metrics[one]["value"] if one in metrics else None for one in (name, *controls)]
            table.append({"title": title(name), "scores": scores})
    return table


HEADS = {"shuffled": "other image", "wrong_phrase": "other phrase", "prior": "no image", "centre": "middle"}
HUES = ("#5ec8ff", "#ffb454", "#7ee08a", "#ff7b9c", "#c9a4ff", "#ffe066", "#4fe0d0", "#ff9a6b", "#9fb6ff", "#d8d8d8")


def hues(tree: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Return a colour for each label of the sample images, bright enough on a radiograph."""
    labels = sorted({box["label"] for one in _samples(out, tree) for box in one["boxes"]})
    return {label: HUES[at % len(HUES)] for at, label in enumerate(labels)}


def _training(out: Path) -> dict[str, Any] | None:
    """Return the loss curve and the facts beside it; None for a model whose training left no log."""
    path = out / "training.json"
    if not path.is_file():
        return None
    rows = read_json(path)
    chart = charts.training(rows)
    trained = [one for one in rows if one.get("event", "train") == "train"]
    if chart is None:
        return None
    facts = [("Steps", f"{max(one['step'] for one in rows):,}")]
    if "samples" in trained[-1]:
        facts.append(("Samples seen", f"{trained[-1]['samples']:,}"))
    facts += [("First loss", f"{trained[0]['loss']:.3f}"), ("Last loss", f"{trained[-1]['loss']:.3f}")]
    held_out = [one["loss"] for one in rows if one.get("event") == "validate"]
    if held_out:
        facts += [("Best held-out loss", f"{min(held_out):.3f}"), ("Last held-out loss", f"{held_out[-1]:.3f}")]
    return {"chart": chart, "facts": facts}


def _samples(out: Path, tree: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    for task in tree["tasks"]:
        if task["status"] == "ok" and task.get("figures"):
            samples: list[dict[str, Any]] = read_json(inside(out, task["figures"])).get("samples", [])
            if samples:
                return samples
    return []
