"""`make demo`: the whole job on synthetic radiographs, with the commands that you would type, and a floor under the scores.

Nothing here is a shortcut: each step is printed as a command, runs in its own process, and works the same by hand. The
process ends with 1 when a score is under its floor, and with the failing step's own code when a step fails.
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
from rich.table import Table

from vlp.core.errors import report
from vlp.core.output import check_apart, hold, remove

RECIPE = Path(__file__).parent / "demo.yaml"
STUDIES = 8000
SPLIT = "0.85,0.02,0.13"
MADE_BY = "vlp-demo"
PARTS = ("shards", "model", "eval", "export")
"""What the demo makes in its folder, and removes from it when it starts again."""


@dataclass(frozen=True)
class Floor:
    """A score of the demo: where it is in results.json, the least it may be, and what is printed beside it.

    `least` is a number, or the name of a control of the same run that the score must reach; `above` is a margin over a
    control that it must keep as well. `controls` are (title, metric, or a field of the score itself such as `chance`).
    """

    title: str
    task: str
    metric: str
    least: float | str
    controls: tuple[tuple[str, str], ...]
    above: tuple[str, float] | None = None


FLOORS = (
    Floor(
        "image to report, R@10 of 500", "retrieval", "i2t_r@10", 0.75, (("chance", ".chance"), ("oracle", ".oracle"))
    ),
    Floor(
        "report to image, R@10 of 500", "retrieval", "t2i_r@10", 0.75, (("chance", ".chance"), ("oracle", ".oracle"))
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
)
"""What the demo must reach; anything less means that something in the chain is broken."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code: 0 all floors held, 1 a score is under its floor, else the failed step's."""
    parser = argparse.ArgumentParser(prog="python -m vlp_recipes.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything the demo makes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data and of the training")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log file has no edge
    started = time.perf_counter()
    out: Path = options.out
    try:
        check_apart(out)
        with hold(out, MADE_BY, PARTS):
            for part in PARTS:
                remove(out / part, MADE_BY)
            return run_steps(console, out, str(options.seed), started)
    except (Exception, KeyboardInterrupt) as error:
        return report(MADE_BY, error)


def run_steps(console: Console, out: Path, seed: str, started: float) -> int:
    """Run one step after the other in the folder `out`, then judge the scores; return the exit code."""
    shards, run, scores, export = (out / part for part in PARTS)
    steps = [
        (
            "Draw 8,000 synthetic radiographs with reports, and write them as webdataset shards",
            [
                "vlp-prep",
                "build",
                "synthetic",
                "--n",
                str(STUDIES),
                "--seed",
                seed,
                "--split",
                SPLIT,
                "--out",
                str(shards),
            ],
        ),
        (
            "Train a small dual encoder from scratch",
            [
                "vlp-train",
                str(RECIPE),
                f"data.train={shards}",
                f"data.val={shards}",
                f"out={out}",
                "name=model",
                f"seed={seed}",
            ],
        ),
        (
            "Score the checkpoint zero-shot: retrieval, classification, grounding",
            [
                "vlp-eval",
                "run",
                "--model",
                str(run / "last"),
                "--suite",
                "synthetic",
                "--data",
                str(shards),
                "--out",
                str(scores),
            ],
        ),
        (
            "Export it, reload the export in a fresh process, compare",
            ["vlp-export", str(run / "last"), "--to", str(export)],
        ),
    ]
    for number, (what, command) in enumerate(steps, 1):
        console.rule(f"[bold]{number}/{len(steps)}  {what}", align="left")
        console.print(f"$ {' '.join(command)}", style="dim", soft_wrap=True)
        began = time.perf_counter()
        code = run_step(command)
        console.print(f"({time.perf_counter() - began:.0f} s)", style="dim")
        if code:
            console.print(f"[bold red]step {number} ended with {code}:[/] {' '.join(command)}", soft_wrap=True)
            return code
    return judge(console, scores, time.perf_counter() - started)


def run_step(command: list[str]) -> int:
    """Run one command of this environment, its output passed through; return its exit code."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    return subprocess.run(command, env=environment, check=False).returncode


def judge(console: Console, scores: Path, seconds: float) -> int:
    """Print the table of scores, floors and controls; return 1 when a score is under its floor, else 0."""
    tasks = {task["id"].partition(".")[2]: task for task in json.loads((scores / "results.json").read_text())["tasks"]}
    table = Table(title="What it learnt, on studies it never saw", title_justify="left")
    for column in ("score", "value", "95 % interval", "at least", "beside it"):
        table.add_column(column, justify="left" if column in ("score", "beside it") else "right")
    failures = []
    for floor in FLOORS:
        metrics = tasks[floor.task]["metrics"]
        entry = metrics[floor.metric]
        value, least = entry["value"], floor.least
        bound = metrics[least]["value"] if isinstance(least, str) else least
        wanted = [bound]
        if floor.above is not None:
            wanted.append(metrics[floor.above[0]]["value"] + floor.above[1])
        held = value is not None and value >= max(wanted)
        if not held:
            failures.append(f"{floor.title}: {show(value)}, at least {show(max(wanted))}")
        beside = [f"{title} {show(control(metrics, floor.metric, name))}" for title, name in floor.controls]
        low, high = entry["ci"] or (None, None)
        table.add_row(
            floor.title,
            f"[{'green' if held else 'bold red'}]{show(value)}[/]",
            f"{show(low)} to {show(high)}",
            show(max(wanted)),
            ", ".join(beside),
        )
    console.print(table)
    console.print(f"{seconds:.0f} s in all; the page to look at: {scores / 'report.html'}", soft_wrap=True)
    for failure in failures:
        console.print(f"[bold red]under its floor:[/] {failure}", soft_wrap=True)
    return 1 if failures else 0


def control(metrics: dict[str, Any], metric: str, name: str) -> float | None:
    """Return another metric's value, or with a leading dot a field of the metric itself."""
    found: float | None = metrics[metric].get(name[1:]) if name.startswith(".") else metrics[name]["value"]
    return found


def show(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
