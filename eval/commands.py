"""What each verb of `vlp-eval` does, on parsed options; prints to the console and returns the exit code."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vlp.core.config import ConfigError, dump_yaml, to_tree
from vlp.core.output import hold, remove, write_whole

from . import results as result_files
from . import runner
from . import suite as suites
from .compare import compare_runs
from .data import checks
from .data import load as data_files
from .data.dataset import Data, ids_digest
from .drawing.wording import value_words
from .embeddings.cache import EmbeddingCache
from .models import load as embedder
from .report.build import write
from .report.tables import beside_published, csv_table, markdown_table, published_words
from .report.terminal import add_row, console, new_table, print_text, say, summary_table
from .tasks.base import Context, Task


def alone(verb: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a verb that holds its folder `--out` against other processes."""

    def held(options: argparse.Namespace) -> int:
        runner.require_empty(options.out)
        with hold(options.out, runner.MADE_BY, is_ours=True):
            return verb(options)

    return held


def ls(options: argparse.Namespace) -> int:
    """Print the tasks of a suite or of all, with what they need and whether it is there."""
    table = new_table("suite", "task", "family", "needs", "data", "references")
    last = ""
    for suite, task in suites.every_task(options.suite):
        spec, needs = task.spec, ", ".join(sorted(task.needs))
        there = "" if options.data is None else " yes" if data_files.present(spec.data, options.data) else " no"
        name = suite.name if suite.name != last else ""
        add_row(table, name, spec.id, spec.family, needs, (spec.data.folder or ".") + there, len(spec.references) or "")
        last = suite.name
    console.print(table)
    return 0


def show(options: argparse.Namespace) -> int:
    """Print a task's specification, scoring rule and every prompt."""
    task = suites.find_task(options.task, options.suite)
    tree: dict[str, Any] = {"task": to_tree(task.spec), "settings": to_tree(task.settings), **task.describe()}
    tree["config_sha256"] = suites.config_digest(task)
    if options.data:
        tree["split"] = _scored(task, data_files.read(task.spec.data, options.data))
    print_text(dump_yaml(tree))
    return 0


def check(options: argparse.Namespace) -> int:
    """Print counts, prevalence and hashes of a task's data, and patients shared with training data (exit 2 if any)."""
    task = suites.find_task(options.task, options.suite)
    data = data_files.read(task.spec.data, options.data)
    facts: dict[str, Any] = {
        "task": task.spec.id,
        "data": data.name,
        "split": data.split,
        "images": len(data),
        "patients": len({data.patient(index) for index in range(len(data))}),
        "data_digest": data.digest,
    }
    problems = [f"damaged record: {why}" for why in data.rejected.values()]
    try:
        facts |= _scored(task, data)
    except ValueError as error:
        problems.append(f"{error}")
    found, faults = task.check(data)
    facts |= found
    problems += faults
    if options.train is not None:
        facts["training"] = checks.overlap(data, options.train, options.train_split)
        shared = [(what, facts["training"][f"{what}_shared"]) for what in ("patients", "images")]
        problems += [f"{count} {what} are in the training data too" for what, count in shared if count]
    if options.decode:
        problems += checks.unreadable(data)
    print_text(dump_yaml(facts))
    for problem in problems:
        say(f"problem: {problem}")
    return 2 if problems else 0


def _scored(task: Task[Any], data: Data) -> dict[str, Any]:
    """Return how many images the results will list, and the hash of their ids. Raises DataError when there are none."""
    nothing: Any = None  # a plan is made before anything is encoded
    plan = task.plan(Context(data=data, cache=nothing, split=nothing, read=nothing))
    keys = [data.records[index].key for index in plan.scored_records]
    return {"n": len(keys), "ids_sha256": ids_digest(keys)}


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@alone
def run(options: argparse.Namespace) -> int:
    """Score a model on a suite."""
    suite = suites.read(options.suite)
    if options.cache:
        runner.require_place(options.cache, "--cache")
    model = embedder.load(options.model, options.device, options.trust)
    result_files.require_same(options.out, model.card, suite.to_tree(), options.resume)
    own = options.out / ".embeddings"  # removed once the run is whole
    if not options.resume and own.is_dir():
        remove(own, runner.MADE_BY)
    with _progress() as progress:
        cache = EmbeddingCache(options.cache or own, model, options.workers, progress)
        session = runner.Session(cache, options.data, _settings(options))
        code = runner.run(suite, session, options.out, options.resume, say)
    runner.training_curve(options.model, options.out)
    remove(own, runner.MADE_BY)
    return _finish(options, code)


def embed(options: argparse.Namespace) -> int:
    """Encode what a suite needs into a folder."""
    suite = suites.read(options.suite)
    runner.require_place(options.out)
    model = embedder.load(options.model, options.device, options.trust)
    settings = runner.Settings(limit=options.limit, allow_missing=options.allow_missing, resamples=2, draw_images=False)
    with _progress() as progress:
        cache = EmbeddingCache(options.out, model, options.workers, progress)
        code = runner.embed(suite, runner.Session(cache, options.data, settings), say)
    say(f"embeddings of {model.card.name} in {options.out}")
    return code


@alone
def score(options: argparse.Namespace) -> int:
    """Score cached embeddings."""
    suite = suites.read(options.suite)
    cache = EmbeddingCache(options.embeddings, None)
    result_files.require_same(options.out, cache.card, suite.to_tree(), options.resume)
    session = runner.Session(cache, options.data, _settings(options))
    code = runner.run(suite, session, options.out, options.resume, say)
    return _finish(options, code)


def _settings(options: argparse.Namespace) -> runner.Settings:
    given = {name: getattr(options, name) for name in ("seed", "resamples", "limit", "allow_missing", "show_text")}
    maps = options.out / "maps" if options.write_maps else None
    return runner.Settings(**given, draw_images=not options.no_html, maps=maps)


def _finish(options: argparse.Namespace, code: int) -> int:
    tree = result_files.read(options.out)
    if not options.no_html:
        say(f"report: {write(options.out)}")
    console.print(summary_table(tree))
    for task in tree["tasks"]:
        for name, _, metric, references in beside_published(task) if task["status"] == "ok" else ():
            say(f"published beside {task['id']} {name} {value_words(metric)}: {published_words(references)}")
    return code


def compare(options: argparse.Namespace) -> int:
    """Print paired differences of each run with the first."""
    if len(options.runs) < 2:
        raise ConfigError("compare needs at least two run folders")
    _import(options.trust)
    rows, notes = compare_runs(options.runs, options.resamples)
    table = new_table("task", "metric", "first", "other", "value", "difference", "95 % interval", "p")
    for row in rows:
        doubt = f" (unreliable: {row['unreliable']})" if "unreliable" in row else ""
        bounds, p = f"{row['ci'][0]:+.3f} to {row['ci'][1]:+.3f}{doubt}", f"{row['p']:.3g} ({row['test']})"
        values = f"{row['first']:.3f}", row["run"], f"{row['second']:.3f}", f"{row['difference']:+.3f}"
        add_row(table, row["task"], row["metric"], *values, bounds, p)
    console.print(table)
    for note in notes:
        say(note)
    if options.json:
        write_whole(options.json, json.dumps(rows, indent=1) + "\n")
    return 0


def _import(modules: Sequence[str]) -> None:
    """Import the modules of task families that are not part of the harness: a results file alone causes no import."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"--trust {module}: {error}") from None


def report(options: argparse.Namespace) -> int:
    """Write a run's page, or print it as markdown or CSV."""
    _import(options.trust)
    tree = result_files.read(options.out)
    if options.md or options.csv:
        print_text(markdown_table(tree) if options.md else csv_table(tree), end="")
        return 0
    say(f"report: {write(options.out)}")
    return 0
