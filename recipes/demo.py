"""`make demo`: the whole job on synthetic radiographs, with the commands that you would type, and a floor under the scores.

Nothing here is a shortcut: each step is printed as a command, runs in its own process, and works the same by hand. The
process ends with 1 when a score is under its floor, and with the failing step's own code when a step fails. A demo is data,
`Demo`; that of volumes is in `demo3d.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlp.core.errors import report
from vlp.core.output import check_apart, hold, remove


@dataclass(frozen=True)
class Floor:
    """A score of a demo: where it is in results.json, the least it may be, and what is printed beside it.

    `least` is a number, or the name of a control of the same run that the score must reach; `above` is a margin over a
    control that it must keep as well. `controls` are (title, metric, or a field of the score itself such as `chance`).
    `of`: the mean over these classes, of the scores and the controls of each.
    """

    title: str
    task: str
    metric: str
    least: float | str
    controls: tuple[tuple[str, str], ...] = ()
    above: tuple[str, float] | None = None
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demo:
    """A demo: its steps, each a sentence and a command, the folders that they make, and the floors under its scores.

    In the words of a command `{out}`, `{seed}` and `{recipe}` stand for the demo's folder, its seed and its recipe's file.
    The scores are in the folder `eval`.
    """

    name: str
    about: str
    parts: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]
    floors: tuple[Floor, ...]


RADIOGRAPHS = Demo(
    name="demo",
    about="the whole job on synthetic radiographs",
    parts=("shards", "model", "eval", "export"),
    steps=(
        (
            "Draw 8,000 synthetic radiographs with reports, and write them as webdataset shards",
            "vlp-prep build synthetic --n 8000 --seed {seed} --split 0.85,0.02,0.13 --out {out}/shards",
        ),
        (
            "Train a small dual encoder from scratch",
            "vlp-train {recipe} data.train={out}/shards data.val={out}/shards out={out} name=model seed={seed}",
        ),
        (
            "Score the checkpoint zero-shot: retrieval, classification, grounding",
            "vlp-eval run --model {out}/model/last --suite synthetic --data {out}/shards --out {out}/eval",
        ),
        (
            "Export it, reload the export in a fresh process, compare",
            "vlp-export {out}/model/last --to {out}/export",
        ),
    ),
    floors=(
        Floor(
            "image to report, R@10 of 500",
            "retrieval",
            "i2t_r@10",
            0.75,
            (("chance", ".chance"), ("oracle", ".oracle")),
        ),
        Floor(
            "report to image, R@10 of 500",
            "retrieval",
            "t2i_r@10",
            0.75,
            (("chance", ".chance"), ("oracle", ".oracle")),
        ),
        Floor("zero-shot macro AUROC, 8 findings", "classification", "auroc_macro", 0.90, (("chance", ".chance"),)),
        Floor(
            "pointing game, phrases with a place",
            "grounding",
            "pointing",
            0.60,
            (("another image", "pointing_shuffled"), ("text alone", "pointing_prior")),
            above=("pointing_shuffled", 0.25),
        ),
        Floor(
            "pointing game, the finding alone",
            "grounding",
            "bare_pointing",
            "bare_pointing_prior",
            (("another image", "bare_pointing_shuffled"), ("mean box", "bare_pointing_prior")),
        ),
        Floor("contrast to noise, signed", "grounding", "cnr", 1.2, (("another image", "cnr_shuffled"),)),
    ),
)
"""What `make demo` does. Anything less than its floors means that something in the chain is broken."""


def main(arguments: Sequence[str] | None = None, demo: Demo = RADIOGRAPHS) -> int:
    """Run a demo and return the exit code: 0 all floors held, 1 a score is under its floor, else the failed step's."""
    made_by = f"vlp-{demo.name}"
    parser = argparse.ArgumentParser(prog=f"python -m vlp_recipes.{demo.name}", description=demo.about)
    parser.add_argument("--out", type=Path, default=Path("runs") / demo.name, help="folder for everything it makes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of the training")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log file has no edge
    started = time.perf_counter()
    out: Path = options.out
    try:
        check_apart(out)
        with hold(out, made_by, demo.parts):
            for part in demo.parts:
                remove(out / part, made_by)
            code = run_steps(console, demo, out, options.seed)
            return code or judge(console, out / "eval", time.perf_counter() - started, demo.floors)
    except (Exception, KeyboardInterrupt) as error:
        return report(made_by, error)


def run_steps(console: Console, demo: Demo, out: Path, seed: int) -> int:
    """Run one step after the other in the folder `out`; return the exit code of the first that fails, else 0."""
    recipe = Path(__file__).parent / f"{demo.name}.yaml"
    for number, (what, words) in enumerate(demo.steps, 1):
        command = [word.format(out=out, seed=seed, recipe=recipe) for word in words.split()]
        console.rule(f"[bold]{number}/{len(demo.steps)}  {what}", align="left")
        console.print(f"$ {' '.join(command)}", style="dim", soft_wrap=True, markup=False)
        began, spent = time.perf_counter(), cpu_seconds()
        code = run_step(command)
        console.print(f"({time.perf_counter() - began:.0f} s, {cpu_seconds() - spent:.0f} s of a core)", style="dim")
        if code:
            console.print(f"[bold red]step {number} ended with {code}:[/] {escape(' '.join(command))}", soft_wrap=True)
            return code
    return 0


def cpu_seconds() -> float:
    """Return the processor time of the steps that have ended: on a machine that others use, what tells of a step's cost."""
    used = os.times()
    return used.children_user + used.children_system


def run_step(command: list[str]) -> int:
    """Run one command of this environment, its output passed through; return its exit code."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run(command, env=environment, check=False).returncode


def judge(console: Console, scores: Path, seconds: float, floors: Sequence[Floor]) -> int:
    """Print the table of scores, floors and controls; return 1 when a score is under its floor, else 0."""
    tasks = {task["id"].partition(".")[2]: task for task in json.loads((scores / "results.json").read_text())["tasks"]}
    table = Table(title="What it learnt, on studies it never saw", title_justify="left")
    for column in ("score", "value", "95 % interval", "at least", "beside it"):
        table.add_column(column, justify="left" if column in ("score", "beside it") else "right")
    failures = []
    for floor in floors:
        metrics = metrics_of(tasks.get(floor.task, {}), floor)
        entry = metrics.get(floor.metric, {})
        value, least = entry.get("value"), floor.least
        wanted = [control(metrics, floor.metric, least) if isinstance(least, str) else least]
        if floor.above is not None:
            below = control(metrics, floor.metric, floor.above[0])
            wanted.append(None if below is None else below + floor.above[1])
        known = [bound for bound in wanted if bound is not None]
        held = value is not None and len(known) == len(wanted) and value >= max(known)
        bound = show(max(known) if known else None)
        if not held:
            failures.append(f"{floor.title}: {show(value)}, at least {bound}")
        beside = [f"{title} {show(control(metrics, floor.metric, name))}" for title, name in floor.controls]
        low, high = entry.get("ci") or (None, None)
        table.add_row(
            floor.title,
            f"[{'green' if held else 'bold red'}]{show(value)}[/]",
            f"{show(low)} to {show(high)}",
            bound,
            ", ".join(beside),
        )
    console.print(table)
    console.print(
        f"{seconds:.0f} s in all, {cpu_seconds():.0f} s of a core; the page to look at: {scores / 'report.html'}",
        soft_wrap=True,
    )
    for failure in failures:
        console.print(f"[bold red]under its floor:[/] {failure}", soft_wrap=True)
    return 1 if failures else 0


def metrics_of(task: dict[str, Any], floor: Floor) -> dict[str, Any]:
    """Return the metrics of a task, {} of one that is not there; means over classes where the floor names them."""
    if not floor.of:
        found: dict[str, Any] = task.get("metrics", {})
        return found
    classes = [task.get("per_class", {}).get(name, {}) for name in floor.of]
    return {name: {"value": mean([entry.get(name) for entry in classes])} for name in classes[0]}


def mean(entries: Sequence[Any]) -> float | None:
    """Return the mean of the metrics' values, None where one has none."""
    values = [entry.get("value") if isinstance(entry, dict) else None for entry in entries]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def control(metrics: dict[str, Any], metric: str, name: str) -> float | None:
    """Return another metric's value, or with a leading dot a field of the metric itself; None where there is none."""
    found: float | None
    found = metrics.get(metric, {}).get(name[1:]) if name.startswith(".") else metrics.get(name, {}).get("value")
    return found


def show(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
