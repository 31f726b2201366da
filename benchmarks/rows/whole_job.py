"""Rows 6 and 9: whole training jobs from the command line, and how long each takes to its first step.

The same towers (a ViT on patches of 32 and a text transformer, 192 wide), shards, batch and number of steps, fp32, plain
CLIP, one thread that trains and one worker that reads, a checkpoint at the end; everything else is each side's default.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import yaml

from ..data import radiographs, write_shards
from ..options import NoPeerError, Options, environment, peer_environment
from ..result import ROOT, Result, compare
from .text_length import demo_reports
from .training import BATCH, recipe_tree, towers

PEER = "open_clip_train's main"


@dataclass(frozen=True)
class Job:
    """Wall seconds from the start of a command: to its first step's log line, to its last step's, to its end; its CPU."""

    first: float
    last: float
    end: float
    cpu: float


def run(options: Options) -> Iterator[Result]:
    steps = 3 if options.quick else 24
    shards = write_shards(options.work / "shards", radiographs(options.images, 512), demo_reports(BATCH * steps))
    config = options.work / "bench.json"
    config.write_text(json.dumps(towers()))
    ours: list[Job] = []
    peer: list[Job] = []
    try:
        surroundings, missing = peer_environment(), ""
    except NoPeerError as error:
        surroundings, missing = {}, str(error)
    for repeat in range(options.repeats):
        recipe = options.work / f"recipe-{repeat}.yaml"
        recipe.write_text(
            yaml.safe_dump(recipe_tree(shards, options.work / f"run-{repeat}", BATCH * steps, log_every=1))
        )
        ours.append(timed(["-m", "vlp.train", str(recipe)], environment(), "train "))
        if not missing:
            last_shard = len(list(shards.glob("*.tar"))) - 1
            flags = {
                "train-data": f"{shards}/train-{{000000..{last_shard:06d}}}.tar",
                "train-num-samples": BATCH * steps,
                "dataset-type": "webdataset",
                "batch-size": BATCH,
                "epochs": 1,
                "workers": 1,
                "model": "bench",
                "precision": "fp32",
                "lr": 1e-4,
                "warmup": 0,
                "lr-scheduler": "const",
                "log-every-n-steps": 1,
                "logs": options.work / "logs",
                "name": repeat,
            }
            given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
            peer.append(timed(["-m", "benchmarks.peers.train", str(config), *given], surroundings, "Train Epoch"))
    size = f"{steps} steps of {BATCH}"
    rows = (
        ("6", f"whole job of {size}, wall, start-up included", "s", 1.5, lambda job: job.end),
        (
            "6",
            "the job's steps after the first: what any longer job comes to",
            "s",
            1.5,
            lambda job: job.last - job.first,
        ),
        ("6", "the whole job, CPU", "s", None, lambda job: job.cpu),
        ("9", "start of the command to the first step's log line", "s", 1.0, lambda job: job.first),
    )
    for row, what, unit, least, part in rows:
        values = [[part(job) for job in side] for side in (ours, peer)]
        if missing:
            yield Result(row, what, PEER, unit, statistics.median(values[0]), None, None, least, missing)
        else:
            yield compare(row, what, PEER, unit, values[0], values[1], least)


def timed(command: Sequence[str], surroundings: Mapping[str, str], marker: str) -> Job:
    """Run a command to its end; a step has been made when a line with `marker` comes out. Raises RuntimeError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    steps, said = [], []
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=dict(surroundings),
    )
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if marker in line:
            steps.append(time.perf_counter() - started)
    if process.wait() or not steps:
        raise RuntimeError(f"{command[1]} failed: {''.join(said[-3:])[:300]}")
    end = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Job(steps[0], steps[-1], end, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
