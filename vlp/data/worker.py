"""What happens in a loader's worker: the position of a batch in, the batch out. Holds no state between batches."""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
from dataclasses import dataclass, replace
from typing import Any

import cv2
import torch
from torch.utils.data import Dataset, get_worker_info

from vlp.batch import Batch
from vlp.core.errors import NO_HANDLES
from vlp.modalities.image.errors import ImageError

from .collate import Assembler, Prepared
from .sampling import Draw, rows, seed_of
from .shards.sample_io import SampleError
from .stream import Stream

MOST_SUBSTITUTES = 100


class LoaderError(RuntimeError):
    """Loading cannot go on: a worker died, a shard is gone, or too many samples are damaged."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker returns: a batch with the keys that were rejected for it and why, or why there is none."""

    batch: Batch | None
    rejected: tuple[tuple[str, str], ...] = ()
    failure: str = ""

    def pin_memory(self) -> Reply:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class Batches(Dataset[Reply]):
    """The batches of one rank, by the position of their first sample."""

    def __init__(self, stream: Stream, assembler: Assembler, rank: int, world: int, training: bool) -> None:
        self.sources, self.plan, self.seed, self.total = stream.sources, stream.plan, stream.seed, stream.samples
        self.size = stream.config.batch_size
        self.assembler, self.rank, self.world, self.training = assembler, rank, world, training

    def __getitem__(self, cursor: int) -> Reply:
        try:
            return self._train(cursor) if self.training else self._once(cursor)
        except (LoaderError, OSError, ValueError) as error:  # said in one line by the main process
            return Reply(None, failure=f"{type(error).__name__}: {error}")

    def _train(self, cursor: int) -> Reply:
        self._look_ahead(cursor)
        rejected: list[tuple[str, str]] = []
        ready = [self._good(position, rejected) for position in rows(cursor, self.size, self.rank, self.world)]
        batch = self.assembler.batch(ready)
        batch.cursor, batch.rejected = cursor + self.size, len(rejected)
        return Reply(batch, tuple(rejected))

    def _look_ahead(self, cursor: int) -> None:
        """Have the shards of the next window copied, where they are remote; one worker does it for all."""
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            source, own = self.plan.mixture.at(cursor)
            if self.sources[source].shards.is_remote:
                self.sources[source].shards.prefetch(self.plan.orders[source].shards_near(own, ahead=1))

    def _good(self, position: int, rejected: list[tuple[str, str]]) -> Prepared:
        """Return the sample at a position; for a damaged one, the first good one from a batch further on."""
        for place in (position, *range(position + self.size, position + self.size + MOST_SUBSTITUTES)):
            draw = self.plan.draw(place)
            try:
                return self._prepare(draw, seeded=True)
            except (SampleError, ImageError) as error:
                rejected.append((self.sources[draw.source].shards.key(draw.index), str(error)))
        raise LoaderError(f"{MOST_SUBSTITUTES + 1} damaged samples one after another, the last: {rejected[-1][1]}")

    def _prepare(self, draw: Draw, seeded: bool) -> Prepared:
        source = self.sources[draw.source]
        sample = source.shards.sample(draw.index, masks=False)
        if not sample.source:
            sample = replace(sample, source=source.name)
        seed = seed_of("sample", self.seed, draw.turn, sample.source, sample.key) if seeded else None
        return self.assembler.prepare(sample, seed)

    def _once(self, cursor: int) -> Reply:
        rejected: list[tuple[str, str]] = []
        ready = []
        for position in rows(cursor, min(self.size, self.total - cursor), self.rank, self.world):
            source, index = 0, position
            while index >= len(self.sources[source].shards):
                index -= len(self.sources[source].shards)
                source += 1
            try:
                ready.append(self._prepare(Draw(position, source, 0, index), seeded=False))
            except (SampleError, ImageError) as error:
                rejected.append((self.sources[source].shards.key(index), str(error)))
        batch = self.assembler.batch(ready)
        batch.cursor, batch.rejected = min(cursor + self.size, self.total), len(rejected)
        return Reply(batch, tuple(rejected))


def end_unsent(error: BaseException, _: Any) -> None:
    """End this worker as its batch cannot be sent, most often for want of file handles; the exit code says which."""
    os._exit(NO_HANDLES if "Too many open files" in str(error) else 1)


def identity(reply: Any) -> Any:
    return reply


def prepare_worker(_: int) -> None:
    # A batch that cannot be sent is dropped by multiprocessing, and the main process would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_unsent)  # type: ignore[attr-defined]
    # A batch system signals all processes of a job: the run finishes its step and saves, with its workers alive. They
    # end with it, by the loader's own means.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # parallelism is between workers; threads inside one would only fight the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # on a CPU, training's threads wait for the slowest of them: reading takes what they leave (9 % faster on two cores)
    os.nice(10)
