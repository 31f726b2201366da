"""Train the objectives on synthetic radiographs, all else equal, and write a table of what each model can do.

    python benchmarks/compare_objectives.py --out runs/compare                     # about 40 minutes on two cores
    python benchmarks/compare_objectives.py --out runs/compare --minutes 8         # the same, in pieces
    python benchmarks/compare_objectives.py --out runs/compare --kinds clip mgca --write docs/objectives_compared.md

One recipe (`compare_objectives.yaml`) with another list of objectives each time: the same towers, data, schedule and number
of samples, fresh data and weights for each seed. Every run has one thread; `--jobs` of them go side by side. A run whose
scores are there is not repeated, so the script can be stopped and started; the table holds what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = Path(__file__).with_suffix(".yaml")
STUDIES, SPLIT = 4000, "0.84,0.02,0.14"
FINDINGS = ["consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly", "edema", "atelectasis", "device"]
PLACES = {
    f"{side} {zone}".strip() or "anywhere": [side or None, zone or None]
    for side in ("left", "right", "bilateral", "")
    for zone in ("upper", "mid", "lower", "")
}
GROUPS: dict[str, Any] = {"kind": "convirt", "image_to_text": 0.5, "positives": "group"}
PHRASES: dict[str, Any] = {
    "kind": "concept", "align": "none", "alpha": 1.0, "of": "phrases", "pool": "lse", "loss": "softmax",
}  # fmt: skip
ASSERTION: dict[str, Any] = {"kind": "assertion", "findings": {one: one for one in FINDINGS}}
TEXTS = {one: [f"{one} is present", f"radiograph with {one}", f"{one} on chest x-ray"] for one in FINDINGS}
UNTRAINED = "untrained"

KINDS: dict[str, list[dict[str, Any]]] = {
    UNTRAINED: [{"kind": "convirt"}],
    "convirt": [{"kind": "convirt"}],
    "clip": [{"kind": "clip"}],
    "siglip, bias -3.4": [{"kind": "siglip", "bias": -3.4}],
    "dhn_nce": [{"kind": "dhn_nce"}],
    "dhn_nce, τ 0.1": [{"kind": "dhn_nce", "temperature": 0.1}],
    "mgca, 100 prototypes": [{"kind": "mgca", "prototypes": 100}],
    "gloria": [{"kind": "gloria"}],
    "medclip": [{"kind": "medclip"}],
    "label_aware": [{"kind": "label_aware"}],
    "concept on spans, with clip": [{"kind": "concept", "align": "clip", "align_scale": 10.0}],
    "convirt, groups, λ 0.5 (base)": [GROUPS],
    "base + concept on phrases": [GROUPS, PHRASES],
    "base + assertion": [GROUPS, ASSERTION],
    "base + multi_text": [GROUPS, {"kind": "multi_text", "texts": TEXTS}],
    "base + medslip": [
        GROUPS,
        {"kind": "medslip", "findings": FINDINGS, "places": PLACES, "layers": 1, "width": 128},
    ],
    "base + 0.5 mae": [GROUPS, {"kind": "mae", "patch": 8, "channels": 1, "width": 128, "depth": 1, "weight": 0.5}],
    "base + concept on phrases + assertion": [GROUPS, PHRASES, ASSERTION],
}


@dataclass(frozen=True)
class Column:
    """A column of the table: where its number is, and where the number that owes nothing to the model."""

    title: str
    task: str
    metric: str
    control: Callable[[dict[str, Any]], float | None] = lambda metrics: None
    digits: int = 3


def chance_of(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda metrics: metrics[name].get("chance")


def value_of(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda metrics: metrics[name]["value"]


COLUMNS = [
    Column("image to report R@10", "retrieval", "i2t_r@10", chance_of("i2t_r@10")),
    Column("report to image R@10", "retrieval", "t2i_r@10", chance_of("t2i_r@10")),
    Column("macro AUROC, 8 findings", "classification", "auroc_macro", chance_of("auroc_macro")),
    Column("pointing, phrase with place", "grounding", "pointing", value_of("pointing_prior")),
    Column("less another image's map", "grounding", "pointing_minus_shuffled", chance_of("pointing_minus_shuffled")),
    Column("pointing, bare finding", "grounding", "bare_pointing", value_of("bare_pointing_prior")),
    Column("CNR, bare finding", "grounding", "bare_cnr", value_of("bare_cnr_prior"), 2),
]
SPEED = "samples/s"


PAGE = """\
# The objectives compared

Written by `python benchmarks/compare_objectives.py --write docs/objectives_compared.md`; good or bad, as measured.

Each row: a 64-pixel CNN and a one-layer text transformer (`{recipe}`) from random weights,
{samples:,} samples seen of {training:,} synthetic studies, batches of 32, one learning rate for all; mean over seeds
(least to most), a seed being its own data, weights and order. Scores are zero-shot on held-out studies: retrieval among
some 340 of distinct state, classification in wordings that no training report uses, pointing at the boxes of 300 studies.
`untrained` saw one batch. The last row is what needs no look at the image: chance for retrieval and classification, the
mean box for pointing (of the phrase with its place, or of the bare finding).

{table}

Machine: {cores} cores of {processor}, {jobs} runs side by side with one thread each, torch {torch}; shared with
other work, so samples/s are lower bounds.

How to read it: the models are tiny and see few samples, so this ranks how fast each objective leaves its start from scratch
on clean, made-up reports, not what it is worth on real ones. Seeds differ a lot (some runs have just left their plateau,
some not yet): a difference smaller than a row's spread is none, and a row of one seed is an anecdote. Settings are the
published ones unless the row says otherwise, and were not tuned for these data. MAE and MeDSLIP train no text tower, so
they accompany a base.
"""


class Comparison:
    """Runs under a folder `out`, each of `samples` samples."""

    def __init__(self, out: Path, samples: int) -> None:
        self.out, self.samples = out, samples

    def folder(self, kind: str, seed: int) -> Path:
        return self.out / f"{''.join(one if one.isalnum() else '-' for one in kind)}-{self.samples}-{seed}"

    def shards(self, seed: int) -> Path:
        """Return the data of a seed, built if it is not there."""
        shards = self.out / f"shards-{seed}"
        if not (shards / "manifest.jsonl").is_file():
            build = ("vlp-prep", "build", "synthetic", "--n", str(STUDIES), "--seed", str(seed), "--split", SPLIT)
            call(*build, "--overwrite", "--out", str(shards))
        return shards

    def run(self, kind: str, seed: int) -> None:
        """Train and score one list of objectives on one seed's data."""
        folder, shards = self.folder(kind, seed), self.shards(seed)
        samples = 32 if kind == UNTRAINED else self.samples
        # JSON is YAML: lists travel as one override each.
        settings = [
            f"data.train={shards}",
            f"data.labels={json.dumps(FINDINGS)}",
            f"objectives={json.dumps(KINDS[kind])}",
            f"train.samples={samples}",
            f"optim.warmup_samples={min(800, samples)}",
            f"out={self.out}",
            f"name={folder.name}",
            f"seed={seed}",
        ]
        shutil.rmtree(folder, ignore_errors=True)
        call("vlp-train", str(RECIPE), *settings)
        score = ("vlp-eval", "run", "--model", str(folder / "last"), "--suite", "synthetic", "--data", str(shards))
        call(*score, "--resamples", "20", "--no-html", "--workers", "0", "--out", str(folder / "eval"))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def is_done(self, kind: str, seed: int) -> bool:
        """Return whether a run has all its scores: an evaluation that was stopped leaves those of its first tasks."""
        results = self.folder(kind, seed) / "eval" / "results.json"
        return results.is_file() and {column.task for column in COLUMNS} <= set(self.read(kind, seed))

    def read(self, kind: str, seed: int) -> dict[str, dict[str, Any]]:
        """Return a run's metrics by task."""
        results = json.loads((self.folder(kind, seed) / "eval" / "results.json").read_text(encoding="utf-8"))
        return {one["id"].partition(".")[2]: one["metrics"] for one in results["tasks"]}

    def speed(self, kind: str, seed: int) -> float:
        log = (self.folder(kind, seed) / "log.jsonl").read_text(encoding="utf-8")
        found = [one["samples_per_s"] for one in map(json.loads, log.splitlines()) if one["event"] == "train"]
        return statistics.median(found) if found else math.nan

    def table(self, kinds: list[str], seeds: list[int]) -> list[str]:
        """Return the lines of the table: the mean over the seeds that are there, least and most behind it."""
        titles = [*(column.title for column in COLUMNS), SPEED]
        lines = [f"| objectives | seeds | {' | '.join(titles)} |", f"|---|{'---|' * (len(titles) + 1)}"]
        controls: dict[str, list[float]] = {column.title: [] for column in COLUMNS}
        for kind in kinds:
            runs = {seed: self.read(kind, seed) for seed in seeds if self.is_done(kind, seed)}
            if not runs:
                continue
            cells = []
            for column in COLUMNS:
                values = [run[column.task][column.metric]["value"] for run in runs.values()]
                cells.append(spread([one for one in values if one is not None], column.digits))
                beside = [column.control(run[column.task]) for run in runs.values()]
                controls[column.title] += [one for one in beside if one is not None]
            speeds = [self.speed(kind, seed) for seed in runs]
            cells.append("–" if kind == UNTRAINED else f"{statistics.mean(speeds):.0f}")
            lines.append(f"| {kind} | {len(runs)} | {' | '.join(cells)} |")
        if len(lines) > 2:
            cells = [spread(controls[column.title], column.digits, brief=True) for column in COLUMNS]
            lines.append(f"| *chance, or no look at the image* | | {' | '.join(cells)} | |")
        return lines


def spread(values: list[float], digits: int, brief: bool = False) -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if brief or len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def call(*command: str) -> None:
    """Run one of the package's commands with one thread; its output is shown where it fails."""
    program = Path(sys.executable).parent / command[0]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(program), *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def page(comparison: Comparison, table: list[str], jobs: int) -> str:
    """Return the page of documentation that shows the table."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor(),
    )
    return PAGE.format(
        recipe=RECIPE.relative_to(ROOT),
        samples=comparison.samples,
        training=round(STUDIES * float(SPLIT.partition(",")[0])),
        table="\n".join(table),
        cores=os.cpu_count(),
        processor=processor,
        jobs=jobs,
        torch=version("torch"),
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and table.md")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after so long")
    parser.add_argument("--write", type=Path, help="also write the page of documentation here")
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    comparison, end = Comparison(out, asked.samples), time.monotonic() + 60 * asked.minutes
    missing = [(kind, seed) for seed in asked.seeds for kind in asked.kinds if not comparison.is_done(kind, seed)]

    def work(kind: str, seed: int) -> None:
        if time.monotonic() < end:
            started = time.monotonic()
            comparison.run(kind, seed)
            print(f"{kind}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)

    for seed in asked.seeds:  # seed by seed: what is there early is a whole table of fewer seeds
        todo = [one for one in missing if one[1] == seed]
        if todo and time.monotonic() < end:
            comparison.shards(seed)
        with ThreadPoolExecutor(asked.jobs) as pool:
            list(pool.map(lambda one: work(*one), todo))
    table = comparison.table(asked.kinds, asked.seeds)
    (out / "table.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))
    if asked.write:
        asked.write.write_text(page(comparison, table, asked.jobs), encoding="utf-8")


if __name__ == "__main__":
    main()
