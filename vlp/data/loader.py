"""Shards to batches: the only reader of training data. Infinite, exact, the same for any number of workers and ranks.

The order is the plan's (`vlp.data.sampling`); a worker is given the position of a batch and returns that batch, so workers
hold no state and the loader's whole state is one number. Resuming is starting to count there.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.util  # registers its own end before ours below
import os
import signal
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vlp.batch import Batch, Grid, PromptSpec
from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.core.errors import NO_HANDLES, handle_limit, in_words, is_machine
from vlp.modalities.base import ImageLike
from vlp.modalities.image.errors import ImageError
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.volume.store import is_volume

from .collate import Collator, DecodedSample, LoaderError, WorkerResult
from .config import DataConfig, SourceConfig, TextView
from .pipe_stream import PipeDataset, PipeStream
from .sampling import SampleRef, rows, seed_of
from .shards.sample_io import SampleError
from .stream import Stream, check_content, check_kinds, open_stream, too_many_rejected

__all__ = ["DataConfig", "Loader", "LoaderError", "SourceConfig", "TextView", "open_stream"]

log = logging.getLogger(__name__)

MAX_SUBSTITUTES = 100

_reading: weakref.WeakSet[Any] = weakref.WeakSet()
_workers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, hence before it at exit
def _end_workers() -> None:
    """End the workers of loaders that a script left open: they ignore SIGTERM, by which Python would end and await them.

    First as torch does it, then by force: torch gives up on a worker that has not ended within some seconds.
    """
    for results in list(_reading):
        if hasattr(results, "_shutdown_workers"):
            results._shutdown_workers()
    for worker in multiprocessing.active_children():
        if worker in _workers:
            worker.kill()


def silence_torch() -> None:
    """Leave out what torch prints while a failed loader is taken down: it follows from what is reported."""
    sys.unraisablehook = lambda _: None


def end_unsent(error: BaseException, _: Any) -> None:
    """End this worker as its batch cannot be sent, most often for want of file handles; the exit code says which."""
    os._exit(NO_HANDLES if "Too many open files" in str(error) else 1)


def end_unserved(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """End this worker as the thread that hands its batches over has no file handle left; other errors are shown."""
    if "Too many open files" in str(error):
        os._exit(NO_HANDLES)
    sys.__excepthook__(kind, error, trace)


def identity(result: Any) -> Any:
    return result


def prepare_worker(_: int) -> None:
    # A batch that cannot be sent is dropped by multiprocessing, and the main process would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end_unsent)  # type: ignore[attr-defined]
    sys.excepthook = end_unserved  # multiprocessing's thread calls it; what a worker itself raises is told otherwise
    # A batch system signals all processes of a job: the run finishes its step and saves, with its workers alive. They
    # end with it, by the loader's own means.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # parallelism is between workers; threads inside one would only fight the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # on a CPU, training's threads wait for the slowest of them: reading takes what they leave (9 % faster on two cores)
    os.nice(10)


class BatchDataset(Dataset[WorkerResult]):
    """The batches of one rank, by the position of their first sample; a loader's worker reads them. It has no state."""

    def __init__(self, stream: Stream, collator: Collator, rank: int, world: int, training: bool) -> None:
        self.sources, self.plan, self.seed, self.spans = stream.sources, stream.plan, stream.seed, stream.spans()
        both = len(collator.preprocess.kinds) > 1  # a model of one kind cannot decode the other
        self.kinds = [source.kind if both else None for source in stream.sources]
        self.size = stream.config.batch_size
        self.collator, self.rank, self.world, self.training = collator, rank, world, training

    def __getitem__(self, cursor: int) -> WorkerResult:
        size = self.size if self.training else min(self.size, self._end(cursor) - cursor)
        rejected: list[tuple[str, str]] = []
        try:
            if self.training:
                self._prefetch(cursor)
            positions = rows(cursor, size, self.rank, self.world)
            found = [self._load_or_substitute(position, rejected) for position in positions]
            batch = self.collator.collate([sample for sample in found if sample is not None])
        except (LoaderError, OSError, ValueError) as error:  # reported in one line by the main process
            return WorkerResult(None, failure=f"{type(error).__name__}: {error}")
        batch.cursor, batch.rejected = cursor + size, len(rejected)
        return WorkerResult(batch, tuple(rejected))

    def _end(self, cursor: int) -> int:
        return next(span.stop for span in self.spans if cursor in span)

    def _prefetch(self, cursor: int) -> None:
        """Have the shards of the next window copied, where they are remote; one worker does it for all."""
        worker = get_worker_info()
        if worker is None or worker.id == 0:
            source, own = self.plan.mixture.at(cursor)
            if self.sources[source].shards.is_remote:
                self.sources[source].shards.prefetch(self.plan.orders[source].shards_near(own, ahead=1))

    def _load_or_substitute(self, position: int, rejected: list[tuple[str, str]]) -> DecodedSample | None:
        """Return the sample at a position; for a damaged one, in training, the first good one from a batch further on."""
        drawn = (
            itertools.chain([self.plan.draw(position)], self.plan.substitutes(position, self.size, MAX_SUBSTITUTES))
            if self.training
            else [self._in_order(position)]
        )
        for ref in drawn:
            source = self.sources[ref.source]
            try:
                sample = source.shards.sample(ref.index, masks=self.collator.reads_masks)
                if not sample.source:
                    sample = replace(sample, source=source.name)
                kind = self.kinds[ref.source]
                if kind is not None and is_volume(sample.image) is not (kind == "volume"):
                    raise SampleError(
                        f"key {sample.key!r} is not of the kind of the first sample of its set, {kind}: give images and "
                        "volumes sets of their own"
                    )
                seed = seed_of("sample", self.seed, ref.epoch, sample.source, sample.key) if self.training else None
                return self.collator.decode(sample, seed)
            except (SampleError, ImageError) as error:
                rejected.append((source.shards.key(ref.index), str(error)))
        if self.training:
            raise LoaderError(f"{MAX_SUBSTITUTES + 1} damaged samples one after another, the last: {rejected[-1][1]}")
        return None

    def _in_order(self, position: int) -> SampleRef:
        source, index = 0, position
        while index >= len(self.sources[source].shards):
            index -= len(self.sources[source].shards)
            source += 1
        return SampleRef(position, source, 0, index)


class Loader:
    """An infinite iterator of this rank's batches of the training stream, and of one epoch of a validation split.

    `stream` is what `open_stream` returned for the split, where it has been opened already. `needs`, `prompts` and
    `settings` come from the objectives, `grid` from the model. Raises ConfigError for what cannot work: no such split, a
    batch that does not divide among the ranks, fewer samples than a batch holds, data without what the objectives need.
    """

    def __init__(
        self,
        config: DataConfig,
        preprocess: ImageLike[Any],
        tokenizer: Tokenizer,
        needs: frozenset[str] = frozenset(),
        prompts: PromptSpec | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        split: str = "train",
        stream: Stream | PipeStream | None = None,
        settings: Mapping[str, Any] | None = None,
        grid: Grid | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} of {world}")
        if config.batch_size % world:
            low = config.batch_size // world * world
            raise ConfigError(
                f"data.batch_size {config.batch_size} does not divide among {world} ranks: "
                f"use {f'{low} or ' if low else ''}{low + world}"
            )
        self.config, self.seed, self.rank, self.world, self.split = config, seed, rank, world, split
        self.stream = stream if stream is not None else open_stream(config, seed, split, world)
        self.samples = self.stream.samples
        if isinstance(self.stream, Stream):
            check_kinds(self.stream, preprocess)
        missing = self.stream.without_text != 0  # not known of a stream that cannot seek
        self.collator = Collator(
            preprocess,
            tokenizer,
            config.text,
            config.augment,
            config.labels,
            needs,
            prompts,
            config.decode,
            missing,
            settings,
            grid,
        )
        if split == "train" and isinstance(self.stream, Stream):
            check_content(self.stream, [need for need in self.collator.needs if need.name in needs])
        self.cursor = 0
        self.rejected: dict[str, str] = {}
        self._unshared: list[str] = []

    @property
    def _is_mixed(self) -> bool:
        """Whether images and volumes are read in turn, a batch of each."""
        return isinstance(self.stream, Stream) and self.stream.unit > 1

    def __len__(self) -> int:
        """Return the number of batches of one epoch, a short last one included."""
        return -(-self.samples // self.config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self.stream, PipeStream):
            batches = self._read(PipeDataset(self.stream, self.collator, self.rank, self.world, self.cursor), None)
        elif not self.samples:
            raise ConfigError(f"split {self.split!r} is empty")
        else:
            dataset = BatchDataset(self.stream, self.collator, self.rank, self.world, training=True)
            batches = self._read(dataset, itertools.count(self.cursor, self.config.batch_size))
        for batch in batches:
            self.cursor = batch.cursor
            yield batch

    def once(self) -> Iterator[Batch]:
        """Yield the split in its own order, without random choices, every sample on exactly one rank.

        All ranks yield the same number of batches; of a short last one a rank may have fewer rows, or none.
        """
        if isinstance(self.stream, PipeStream):
            raise ConfigError("a stream has no end: it cannot be read once from end to end")
        dataset = BatchDataset(self.stream, self.collator, self.rank, self.world, training=False)
        spans = self.stream.spans()
        size = self.config.batch_size
        return self._read(dataset, list(itertools.chain(*(range(span.start, span.stop, size) for span in spans))))

    def _read(self, dataset: Dataset[WorkerResult], positions: Iterable[int] | None) -> Iterator[Batch]:
        loading = DataLoader(
            dataset,
            batch_size=None,
            sampler=positions,
            num_workers=self.config.workers,
            collate_fn=identity,
            worker_init_fn=prepare_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else starting workers would draw from the run's own
        )
        before = set(multiprocessing.active_children())
        try:
            results = iter(loading)
        except OSError:  # of the workers, some may have been started
            for worker in set(multiprocessing.active_children()) - before:
                worker.kill()
            silence_torch()
            raise
        _reading.add(results)
        _workers.update(getattr(results, "_workers", ()))
        while True:
            try:
                result: WorkerResult = next(results)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                raise self._failure(error) from error
            if result.batch is None:
                raise LoaderError(f"rank {self.rank}: {result.failure}")
            self._count(result.rejected)
            yield result.batch

    def _failure(self, error: Exception) -> Exception:
        """Return what to raise when the workers fail, and end them: one that cannot send would be waited for at exit."""
        message = " ".join(str(error).split())
        workers = [worker for worker in multiprocessing.active_children() if worker in _workers]
        if isinstance(error, (ConnectionError, EOFError)):  # it ended while a batch of its was fetched
            multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=2)
        codes = {worker.exitcode for worker in _workers}
        cause = OSError(errno.EMFILE, "") if NO_HANDLES in codes else error
        words = in_words(cause) if is_machine(cause) else None
        is_dead = "DataLoader worker" in message or isinstance(error, (ConnectionError, EOFError))
        if not is_dead and words is None:
            return error
        for worker in workers:
            worker.kill()
        silence_torch()
        if words is not None:
            return LoaderError(f"rank {self.rank}: a loader worker cannot send its batch: {words} (data.workers)")
        return LoaderError(
            f"rank {self.rank}: a loader worker died ({message}). Usually memory ran out, or file handles did "
            f"({handle_limit()}): lower data.workers"
        )

    def _count(self, rejected: Iterable[tuple[str, str]]) -> None:
        for key, why in rejected:
            if key not in self.rejected:
                self.rejected[key] = why
                self._unshared.append(key)
                log.warning("rejected sample %s: %s", key, why)
        if self.rejected and (problem := self._too_many_rejected()):
            raise LoaderError(problem)

    def _too_many_rejected(self) -> str | None:
        return too_many_rejected(self.rejected, self.samples, self.config.max_rejected) if self.samples else None

    def share_rejected(self) -> str | None:
        """Learn of what the other ranks have rejected; return what to say when all of it is too much. Collective.

        Each rank reads a part of the samples: alone, none sees more damage than in its part.
        """
        for rank, keys in enumerate(distributed.gather_objects(self._unshared)):
            self.rejected |= {key: f"rejected on rank {rank}" for key in keys if key not in self.rejected}
        self._unshared = []
        return self._too_many_rejected()

    def state(self) -> dict[str, Any]:
        """Return the position after the last batch that was yielded, as JSON values."""
        return {
            "seed": self.seed,
            "pass": self.cursor // max(self.samples, 1),
            "cursor": self.cursor,
            "digest": self.stream.digest,
            "window": self.config.window,
            "bucket": self.config.batch_size if self.config.bucket or self._is_mixed else 0,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; any number of workers and ranks will do.

        Raises ConfigError when the data, seed, window or bucketing is another: the order would not be the same.
        """
        mine = self.state()
        for name, what in (("digest", "the training data"), ("seed", "seed"), ("window", "data.window")):
            if state[name] != mine[name]:
                raise ConfigError(
                    f"cannot resume: {what} was {state[name]} when the checkpoint was written and is {mine[name]} now, "
                    "so that samples would be repeated and skipped"
                )
        if state["bucket"] != mine["bucket"]:
            raise ConfigError(
                "cannot resume: with data.bucket, or images and volumes together, the order depends on data.batch_size, which "
                f"was {state['bucket'] or 'without bucketing'} and is {mine['bucket'] or 'without bucketing'} now"
            )
        self.cursor = int(state["cursor"])
        if isinstance(self.stream, PipeStream):
            log.warning("resuming a stream that cannot seek: its shards start anew, so samples may be repeated")
