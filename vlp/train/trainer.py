"""The trainer, in one sitting: from a recipe to a run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vlp.core import distributed
from vlp.core.config import ConfigError, to_tree

from . import checkpoint, setup
from .grad_cache import accumulate_gradients
from .logging import Meter, RunLog, StepRecord
from .optimizer import lr_scale
from .signals import StopRequest, register_rank

if TYPE_CHECKING:
    from vlp.batch import Batch
    from vlp.data.pipe_stream import PipeStream
    from vlp.data.stream import Stream

    from ..objectives import ObjectiveSum
    from .recipe import Recipe


LEAST_SCALE = 1e-4
"""fp16's loss scale below which a gradient that still overflows is no matter of the scale (fairseq's limit)."""


class TrainingStopped(RuntimeError):
    """The run cannot go on (non-finite loss, data that fails); the message says why and the last checkpoint stands."""


@dataclass
class PendingBatch:
    """A batch, the loader's state after it, the seconds it took to come, and what went wrong instead."""

    batch: Batch | None
    position: dict[str, Any]
    waited: float
    failure: str | None = None


def train(recipe: Recipe, resume: bool = False) -> str:
    """Train a recipe to its end and return "finished", or "resumable" when a signal asked it to stop.

    Raises ConfigError for what cannot work, TrainingStopped for a loss or data that fail, and
    `checkpoint.CheckpointError` when a checkpoint cannot be written.
    """
    stop = StopRequest()
    data = setup.open_data(recipe)
    with setup.hold_run(recipe, resume) as start:
        return train_from(start, recipe, data, stop)


def train_from(start: Path | None, recipe: Recipe, data: Stream | PipeStream, stop: StopRequest) -> str:
    """Train in the run folder, from the checkpoint `start` or afresh, to the recipe's end or until `stop` is set."""
    run = recipe.folder
    register_rank(run, distributed.rank())

    # ------------------------------------------------------------------ what
    try:
        components = setup.build(recipe, run, data, start)
    except ConfigError:
        if start is None:
            setup.remove_failed_start(recipe)
        raise
    engine, loader = components.engine, components.loader
    step, samples, random_states = setup.load_checkpoint(components, recipe, start) if start else (0, 0, None)
    total, minutes = recipe.steps * recipe.data.batch_size, recipe.train.checkpoint_every_minutes
    error: str | None = None
    iterator = iter(loader)
    next_batch = fetch(iterator, components)
    if distributed.agree(next_batch.failure is not None):
        raise TrainingStopped(failures(next_batch))
    if start is None and next_batch.batch is not None:
        try:
            setup.check_vectors(engine, next_batch.batch.to(components.device), recipe.train.accumulate)
        except ConfigError:
            setup.remove_failed_start(recipe)
            raise
    log = RunLog(run, recipe.log, to_tree(recipe), recipe.steps, step)
    log.write("start" if start is None else "resume", step, world=distributed.world(), **components.summary())
    meter, saved_step, saved_time = Meter(), step, time.monotonic()
    stopping = data_failed = False
    if random_states is not None:  # after the loader has started its workers, which draws a number
        random_states()

    # ------------------------------------------------------------------ training
    while step < recipe.steps:
        current, batch = next_batch, next_batch.batch
        assert batch is not None
        losses = accumulate_gradients(
            engine,
            batch.to(components.device),
            samples / total,
            recipe.train.accumulate,
            recipe.train.cached_embeddings,
        )
        if step + 1 < recipe.steps:
            next_batch = fetch(iterator, components)
        is_late = minutes is not None and time.monotonic() - saved_time > minutes * 60
        # All ranks learn of each other's trouble here and take the same branch; nothing else in a step may leave it.
        stopping, data_failed, checkpoint_due = distributed.agree_each(
            [bool(stop), next_batch.failure is not None, is_late and distributed.is_main()]
        )
        report = engine.step(lr_scale(recipe.optim, samples + recipe.data.batch_size, total))
        step, samples = step + 1, samples + recipe.data.batch_size
        meter.add(step, batch, losses, report, current.waited)
        is_last = step == recipe.steps or stopping or data_failed
        should_log = step % recipe.train.log_every == 0 or is_last
        validates = recipe.train.validate_every and (step % recipe.train.validate_every == 0 or step == recipe.steps)
        every = recipe.train.checkpoint_every_steps
        should_save = (every and step % every == 0) or checkpoint_due or is_last
        if not (should_log or validates or should_save):
            continue

        # -------------------------------------------------------------- synchronise with the device: nothing else waits for it
        scale = engine.scalars().get("scale")
        bad = first_non_finite(meter, scale)
        if distributed.agree(bad is not None):
            raise TrainingStopped(explain_non_finite(log, bad))
        together = loader.share_rejected()  # the same on all ranks
        if together is not None and not data_failed:
            error, data_failed, should_save = together, True, True
        if should_log:
            extra = {} if scale is None else {"loss_scale": scale}
            log.write("train", step, samples=samples, lr=report.lr, **meter.summary(), **extra)
        paused = time.perf_counter()
        if validates:
            log.write("validate", step, samples=samples, **validate(components, samples / total))
        if should_save:
            write = setup.write_checkpoint(components, recipe, step, samples, current.position)
            folder = checkpoint.save(run, step, write, recipe.train.keep)
            log.write("checkpoint", step, samples=samples, folder=str(folder.relative_to(run)))
            saved_step, saved_time = step, time.monotonic()
        meter.exclude(time.perf_counter() - paused)
        if stopping or data_failed:
            break

    # ------------------------------------------------------------------ the end
    if data_failed and not stopping:
        why = failures(next_batch) if error is None else f"the data failed: {error}"
        raise TrainingStopped(f"{why}; saved at step {saved_step}, --resume goes on from there")
    outcome = "finished" if step >= recipe.steps else "resumable"
    log.write("end", step, samples=samples, outcome=outcome)
    log.close()
    return outcome


def fetch(iterator: Iterator[Batch], components: setup.Components) -> PendingBatch:
    """Take the next batch; a failure is kept for all ranks to hear of, as raising here would leave the others waiting."""
    batch, failure, started = None, None, time.perf_counter()
    try:
        batch = next(iterator)
    except Exception as error:
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return PendingBatch(batch, components.loader.state(), time.perf_counter() - started, failure)


def failures(fetched: PendingBatch) -> str:
    """Return which ranks' data failed, and how. Collective."""
    found = distributed.gather_objects(fetched.failure)
    return "the data failed: " + "; ".join(f"rank {rank}: {failure}" for rank, failure in enumerate(found) if failure)


def first_non_finite(meter: Meter, scale: float | None) -> StepRecord | None:
    """Return the first step since the last line whose loss or gradient was not finite; fp16 may still lower its scale."""
    is_forgiven = scale is not None and scale > LEAST_SCALE
    for step in meter.fetch():
        if not (math.isfinite(step.values["loss"]) and (math.isfinite(step.values["grad_norm"]) or is_forgiven)):
            return step
    return None


def explain_non_finite(log: RunLog, own: StepRecord | None) -> str:
    """Return what was not finite, on which ranks, with the keys of their batches (never their texts). Collective."""
    ranks: list[StepRecord | None] = distributed.gather_objects(own)
    step = min(report.number for report in ranks if report is not None)
    here = {rank: record for rank, record in enumerate(ranks) if record is not None and record.number == step}
    bad = {rank: record for rank, record in here.items() if not math.isfinite(record.values["loss"])} or here
    names = {name for report in bad.values() for name, value in report.values.items() if not math.isfinite(value)}
    keys = [key for report in bad.values() for key in report.keys]
    parts = sorted(names - {"loss", "grad_norm"})
    log.write("stopped", step, reason="not finite", ranks=list(bad), parts=parts, keys=keys)
    what = "the loss is not finite" if "loss" in names else "the gradient is not finite"
    shown = ", ".join(keys[:16]) + (f" and {len(keys) - 16} more in log.jsonl" if len(keys) > 16 else "")
    where = f" on rank {', '.join(map(str, bad))}" if distributed.world() > 1 else ""
    return f"step {step}: {what}{where} (parts: {', '.join(parts) or 'total'}); keys of the batch: {shown}"


@torch.no_grad()
def validate(components: setup.Components, progress: float) -> dict[str, Any]:
    """Return the mean losses over the validation split, every full batch of it once. Collective.

    Each batch counts by the rows that are compared: where the objectives need texts, those that have one. A last batch
    whose rows cannot be shared out evenly is left out and counted, since losses compare rows across ranks. Raises
    TrainingStopped when too many samples are damaged.
    """
    if components.validation is None:
        return {}
    sums: dict[str, float] = {}
    rows = left_out = compared = 0
    needs_text = cast("ObjectiveSum", components.engine.module.objectives).needs_text
    components.engine.module.eval()
    with torch.random.fork_rng([components.device] if components.device.type == "cuda" else []):
        iterator = iter(components.validation.once())
        while True:
            batch = next(iterator, None)
            sizes, texts = zip(*distributed.gather_objects((len(batch), batch.texts) if batch else (0, 0)), strict=True)
            if not any(sizes):
                break
            if batch is None or len(set(sizes)) > 1 or len(batch) < 2:
                left_out += sum(sizes)
                continue
            losses = components.engine.forward(batch.to(components.device), progress)
            weight = sum(texts if needs_text else sizes)
            for name, value in {"loss": losses.total, **losses.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * weight
            rows, compared = rows + len(batch), compared + weight
    components.engine.module.train()
    if error := components.validation.share_rejected():
        raise TrainingStopped(f"the validation data failed: {error}")
    ranks = distributed.gather_objects(sums)
    means = {name: sum(values.get(name, 0.0) for values in ranks) / len(ranks) / max(1, compared) for name in sums}
    return {**means, "n": rows * distributed.world(), "left_out": left_out}
