"""The log of a run: log.jsonl always, the console, and wandb when asked. Rank 0 only; keys and numbers, no texts."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console  # here, as it draws a random number when it is imported: before a run is seeded
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from vlp.core import distributed
from vlp.core.config import config
from vlp.core.output import write_whole

if TYPE_CHECKING:
    from vlp.batch import Batch, Losses

    from .engines.base import StepReport

FILE = "log.jsonl"


@config
class LogConfig:
    """Where a run is watched. `wandb: offline` keeps the run on disk for `wandb sync`; `project` and `tags` are wandb's."""

    console: bool = True
    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "vlp"
    tags: tuple[str, ...] = ()


@dataclass
class StepRecord:
    """What a step reported: `loss` and its parts, `grad_norm`. `held` is on the device until `Meter.fetch` fetches it."""

    number: int
    keys: list[str]
    held: dict[str, Tensor]
    values: dict[str, float]


class Meter:
    """Keeps what the steps report, between two lines of the log, on every rank."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.steps: list[StepRecord] = []
        self.counts: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()

    def add(self, number: int, batch: Batch, losses: Losses, report: StepReport, waited: float) -> None:
        """Count a step. Its numbers stay on their device: nothing here waits for them."""
        held = {"loss": losses.total, **losses.parts, "grad_norm": report.grad_norm}
        held = {name: value.detach().float().reshape(()) for name, value in held.items()}
        self.steps.append(StepRecord(number, batch.keys, held, {}))
        rows, texts = len(batch), batch.texts
        self.counts.update(rows=rows, truncated=batch.truncated, rejected=batch.rejected, without_text=rows - texts)
        self.waited += waited
        self.sources.update(batch.sources)

    def fetch(self) -> list[StepRecord]:
        """Return the steps since the last line with their values: one wait for the device, not one for each number."""
        held = [value for step in self.steps for value in step.held.values()]
        numbers = iter(torch.stack(held).tolist() if held else [])
        for step in self.steps:
            step.values |= {name: next(numbers) for name in step.held}
            step.held = {}
        return self.steps

    def exclude(self, seconds: float) -> None:
        """Leave seconds spent on validation and checkpoints out of the speed."""
        self.started += seconds

    def summary(self) -> dict[str, Any]:
        """Return the means over steps and ranks since the last line, and start again. Collective.

        `grad_norm` (the last step's), `loss` and its parts, `samples_per_s`, `data_wait` (share of the time that the host
        waited for a batch; a GPU works off its queue meanwhile, so that its own wait is at most that), `truncated` (share of
        texts), `rejected` (samples), `without_text` (samples that no objective on texts saw), `sources` (samples of
        each), `memory_mb` (largest rank's peak).
        """
        seconds = time.perf_counter() - self.started
        steps = self.fetch()
        sums: dict[str, float] = {}
        for step in steps:
            for name, value in step.values.items():
                if name != "grad_norm":
                    sums[name] = sums.get(name, 0.0) + value
        own = {"sums": sums, "waited": self.waited, "memory_mb": peak_memory_mb()}
        ranks = distributed.gather_objects({**own, "counts": self.counts, "sources": self.sources})
        names = list(dict.fromkeys(name for part in ranks for name in part["sums"]))
        summary: dict[str, Any] = {"grad_norm": steps[-1].values["grad_norm"]}  # every rank's, as it is of the average
        summary |= {
            name: sum(part["sums"].get(name, 0.0) for part in ranks) / len(ranks) / len(steps) for name in names
        }
        counts = sum((part["counts"] for part in ranks), Counter[str]())
        sources = sum((part["sources"] for part in ranks), Counter[str]())
        summary |= {
            "samples_per_s": counts["rows"] / max(seconds, 1e-9),
            # a batch is fetched in the step before the one that counts it, which the line before may have closed
            "data_wait": min(1.0, max(part["waited"] for part in ranks) / max(seconds, 1e-9)),
            "truncated": counts["truncated"] / max(1, counts["rows"]),
            "rejected": counts["rejected"],
            "without_text": counts["without_text"],
            "sources": dict(sorted(sources.items())),
            "memory_mb": max(part["memory_mb"] for part in ranks),
        }
        self.clear()
        return summary


def peak_memory_mb() -> float:
    """Return the largest memory this process has held, in MiB: the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class RunLog:
    """The run's log: one JSON object a line in `log.jsonl`, each with `event`, `step` and `time` (Unix seconds)."""

    def __init__(self, run: Path, config: LogConfig, tree: Mapping[str, Any], steps: int, step: int = 0) -> None:
        """Open the log of a run of `steps`; lines after `step`, of a future that was lost in a crash, are dropped."""
        self.steps = steps
        self._file = None
        self._wandb: Any = None
        self._progress: Any = None
        self._console: Any = None
        if not distributed.is_main():
            return
        run.mkdir(parents=True, exist_ok=True)
        path = run / FILE
        forget(path, step)
        self._file = path.open("a", encoding="utf-8")
        if config.console:
            self._start_console(step)
        if config.wandb != "off":
            self._start_wandb(run, config, tree)

    def _start_console(self, step: int) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        if self._console.is_terminal:
            columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, TextColumn("{task.description}"), console=self._console)
            self._task = self._progress.add_task("", total=self.steps, completed=step)
            self._progress.start()

    def _start_wandb(self, run: Path, config: LogConfig, tree: Mapping[str, Any]) -> None:
        import wandb

        # The same id on every start: a resumed run goes on with its own curves.
        identity = run / "wandb_id"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        self._wandb = wandb.init(
            project=config.project,
            name=run.name,
            id=identity.read_text(encoding="utf-8").strip(),
            resume="allow",
            mode="online" if config.wandb == "online" else "offline",
            dir=str(run),
            config=dict(tree),
            tags=list(config.tags) or None,
        )

    def write(self, event: str, step: int, **values: Any) -> None:
        """Add a line everywhere; on other ranks than 0 it does nothing."""
        if self._file is None:
            return
        record = {"event": event, "step": step, "time": round(time.time(), 3), **rounded(values)}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._wandb is not None:
            numbers = {
                f"{event}/{key}": value for key, value in flat(values).items() if isinstance(value, (int, float))
            }
            self._wandb.log(numbers, step=step)
        if self._console is not None:
            self._show(event, step, values)

    def _show(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        shown = " ".join(f"{key} {short(value)}" for key, value in flat(values).items())
        if event == "train" and self._progress is not None:
            brief = f"loss {short(values['loss'])} · {values['samples_per_s']:.0f} samples/s"
            self._progress.update(self._task, completed=step, description=brief)
        else:
            self._console.print(f"{event} {step}/{self.steps} {shown}", highlight=False, markup=False)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._wandb is not None:
            self._wandb.finish()
        if self._file is not None:
            self._file.close()
            self._file = None


def forget(path: Path, step: int) -> None:
    """Drop the lines of a log that are of later steps than `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, "".join(kept))


def rounded(value: Any) -> Any:
    """Return numbers with 6 significant digits and null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by slashes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        found.update(flat(value, name) if isinstance(value, Mapping) else {name: value})
    return found


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
