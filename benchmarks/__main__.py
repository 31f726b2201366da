"""`make bench`: every row of the speed table, ours beside its peer in the same run, as one table.

    python -m benchmarks                    all rows, a quarter of an hour; refreshes the block in docs/measured.md
    python -m benchmarks --only loading     some rows (repeat --only for more)
    python -m benchmarks --quick            small sizes and two repetitions: does it run? writes nothing

A row is a module in `benchmarks/rows/` with `run(options) -> Iterator[Result]`, run in a process of its own. `large` (the
contrastive loss at N = 65,536, minutes) and `gpu` run only when they are named; all but `gpu` measure the CPU. Beside these
rows there are `python -m benchmarks.prep`, `.objectives`, `.compare_objectives`, `.evaluation`, `.mentions` and
`.communication`, which print for themselves.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from .options import Options
from .result import ROOT, Result
from .table import show, write

ROWS = {
    "loading": "1, 2: the loader, and its workers",
    "text_length": "3: text lengths, bucketing",
    "losses": "4: contrastive losses",
    "training": "5: the training loop",
    "optimizer": "7: the optimiser step",
    "zero_shot": "8: zero-shot evaluation",
    "random_access": "10: start and resume",
    "whole_job": "6, 9: whole jobs and their start",
    "volumes": "11: volumes",
    "large": "4: the contrastive loss at N = 65,536",
    "gpu": "G: ViT-B/16 and BERT-base on a GPU",
}
BY_NAME = ("large", "gpu")
PAGE = ROOT / "docs" / "measured.md"
LONGEST = 1800.0


def main() -> int:
    """Run rows one after another; a row that fails is a line that says so. Return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=sorted(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--images", type=Path, help="JPEG radiographs (default: ../shared/data/covid_cxr/images, else drawn)"
    )
    parser.add_argument("--row", choices=sorted(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        return run_row(asked.row, asked.to, asked.quick, asked.images)
    console, load = Console(stderr=True), os.getloadavg()[0]
    results: list[Result] = []
    failed = False
    for name in asked.only or [name for name in ROWS if name not in BY_NAME]:
        started = time.perf_counter()
        console.print(f"row {ROWS[name]} ...", highlight=False)
        found, problem = in_a_process(name, asked.quick, asked.images)
        failed |= problem is not None
        results += found
        for one in found:
            ratio = "not measured" if one.ratio is None else f"{one.ratio:.2f}x"
            console.print(f"    {one.what}: {ratio} ({one.note})", highlight=False, markup=False)
        outcome = f"[red]failed: {problem}[/red]" if problem else "done"
        console.print(f"    {outcome} after {time.perf_counter() - started:.0f} s", highlight=False)
    show(results, Console(width=None if sys.stdout.isatty() else 200))
    if not asked.quick and results:
        write(results, PAGE, load)
        console.print(f"written into {PAGE.relative_to(ROOT)}", highlight=False)
    return int(failed)


def in_a_process(name: str, quick: bool, images: Path | None) -> tuple[list[Result], str | None]:
    """Run a row; return what it yielded before its end, and why it did not come to a good one."""
    with tempfile.TemporaryDirectory(prefix="vlp-bench-") as folder:
        out = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "benchmarks", "--row", name, "--to", str(out)]
        command += ["--quick"] * quick + (["--images", str(images)] if images else [])
        hidden = {} if name == "gpu" else {"CUDA_VISIBLE_DEVICES": ""}
        problem = None
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST,
                env={**os.environ, **hidden},
            )
            if done.returncode:
                problem = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        except subprocess.TimeoutExpired:
            problem = f"not done within {LONGEST:.0f} s"
        lines = out.read_text().splitlines() if out.exists() else []
    return [Result(**json.loads(line)) for line in lines], problem


def run_row(name: str, out: Path, quick: bool, images: Path | None) -> int:
    """Be the process of a row: append each result to a file as it comes."""
    with tempfile.TemporaryDirectory(prefix="vlp-bench-") as folder:
        options = Options(quick=quick, work=Path(folder), images=images)
        with out.open("a", encoding="utf-8") as file:
            for result in importlib.import_module(f"benchmarks.rows.{name}").run(options):
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
