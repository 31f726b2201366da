"""The one shape of a benchmark's result, and how its two sides are timed: in turn, median against median.

`ratio` says how many times better ours is than its peer, whatever the unit (time and memory: less is better; rates and
shares: more is). `least` is what is asked for; `distance` is how far above (+) or below (-) that the ratio lies.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Result:
    """One line of the table. `row` is its number there; a side that could not be measured is None, `note` says why."""

    row: str
    what: str
    against: str
    unit: str
    ours: float | None
    peer: float | None
    ratio: float | None
    least: float | None
    note: str = ""

    @property
    def distance(self) -> float | None:
        """The share by which the ratio is above what is asked for."""
        return None if self.ratio is None or self.least is None else self.ratio / self.least - 1


def compare(
    row: str,
    what: str,
    against: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    least: float | None,
    more_is_better: bool = False,
    note: str = "",
) -> Result:
    """Return the result of repetitions that were taken in turn: medians, and the median of the pairs' ratios."""
    pairs = [(a / b if more_is_better else b / a) for a, b in zip(ours, peer, strict=True)]
    spread = f"{min(pairs):.2f} to {max(pairs):.2f} in {len(pairs)} repetitions"
    return Result(
        row,
        what,
        against,
        unit,
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(pairs),
        least,
        f"{note}; {spread}" if note else spread,
    )


def interleave(runs: Mapping[str, Callable[[], float]], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """Return each run's values, the repetitions taken in turn; with `warm` a first one of each, not kept, warms it up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + warm):
        for name, run in runs.items():
            gc.collect()
            value = run()
            if repeat >= warm:
                found[name].append(value)
    return found


def cpu_ms(run: Callable[[], object]) -> float:
    """Return the CPU milliseconds of one call, of this process and its threads."""
    started = time.process_time()
    run()
    return 1000 * (time.process_time() - started)


def wall_s(run: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Rival:
    """A process that measures when it is asked: it prints a line of JSON once it is ready and one for each line it reads.

    For what needs another environment, or a peak of memory that is its own. Raises RuntimeError with the last line that
    it complained in.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            cwd=ROOT,
        )
        self.greeting = self._reply()

    def __call__(self) -> Any:
        """Have it measure once; return what it found."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")) or line.strip().replace(".", "").isdigit():
                return json.loads(line)
        said = self.process.stderr.read().strip().splitlines()
        raise RuntimeError(said[-1][:300] if said else "it ended without a word")

    def close(self) -> None:
        """End it by closing what it reads."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def serve(measure: Callable[[], Any], greeting: Any = None) -> None:
    """Be a `Rival`: say that all is ready, then measure once for each line that comes in."""
    sys.stdout.write(json.dumps(greeting if greeting is not None else {}) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(measure()) + "\n")
        sys.stdout.flush()
