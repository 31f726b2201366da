"""Row 4: time and memory of the contrastive losses beside open_clip's, each side in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..options import Options, environment
from ..result import Result, Rival, compare, interleave


def run(options: Options) -> Iterator[Result]:
    count = 2048 if options.quick else 8192
    for kind, name in (("clip", "ClipLoss"), ("siglip", "SigLipLoss")):
        yield from rivals(kind, name, count, options.repeats)


def rivals(kind: str, name: str, count: int, repeats: int) -> Iterator[Result]:
    sides = {whose: Rival(command(f"{kind} {whose}", count), environment()) for whose in ("ours", "open_clip")}
    measured: dict[str, list[dict[str, float]]] = {whose: [] for whose in sides}

    def take(whose: str) -> float:
        measured[whose].append(sides[whose]())
        return measured[whose][-1]["cpu_s"]

    times = interleave({"ours": lambda: take("ours"), "open_clip": lambda: take("open_clip")}, repeats)
    for side in sides.values():
        side.close()
    losses = [found[0]["loss"] for found in measured.values()]
    note = f"losses {losses[0]:.5f}, {losses[1]:.5f}"
    # a process's peak grows once: the first repetition's growth is the loss's
    memory = {whose: found[0]["extra_mib"] for whose, found in measured.items()}
    what = f"{kind} loss at N = {count:,}, D = 512, forward and backward"
    yield Result("4", f"{what}, extra memory", f"open_clip's {name}", "MiB", memory["ours"], memory["open_clip"],
                 memory["open_clip"] / memory["ours"], 4.0, note)  # fmt: skip
    yield compare("4", f"{what}, CPU", f"open_clip's {name}", "s", times["ours"], times["open_clip"], 1.0)


def command(name: str, count: int, threads: int = 1) -> Sequence[str]:
    return ["-m", "benchmarks.objectives", "--threads", str(threads), "--serve", name, str(count)]


def alone(kind: str, count: int, threads: int) -> dict[str, Any]:
    """Measure ours once, with nobody beside it."""
    side = Rival(command(f"{kind} ours", count, threads), environment(OMP_NUM_THREADS=str(threads)))
    found: dict[str, Any] = side()
    side.close()
    return found
