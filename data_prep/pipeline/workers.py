"""The workers of a build: records in, ready samples or reasons out, in the order that they were asked for.

Each worker sets up the source once; chunks of records go out, at most a few ahead of what has been written, so that
memory does not grow with the data. With no workers everything runs in this process; with `--engine ray` the same chunks
go to a cluster. (Ray's tasks, not Ray Data: order, sharding and resuming are ours already, what is missing is machines.)
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError
from vlp.core.process import start_worker
from vlp.data.tables.cells import CellError
from vlp.modalities.image.errors import ImageError
from vlp.sample import Sample

from ..privacy.identifiers import IdHasher
from ..sources.base import Record, Reject, sources
from .killed import ENOUGH, KILLED, Trail, collect
from .options import BuildOptions
from .prepare import ConceptExtractor, SampleProcessor

CHUNK = 16


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that did not become a sample: its place in the source, its key (hashed where ids are), and why.

    `private` is for the owner of the data only: the key, the file or row, and the detail as they are.
    """

    index: int
    key: str
    reason: str
    detail: str = ""
    counted: bool = True
    private: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know, once."""

    options: BuildOptions
    config: Any
    """The source's own options."""
    extractor: ConceptExtractor | None
    key: bytes | None
    state: Path
    """Where processes leave which record they are at, see `killed`."""
    left_out: frozenset[int] = frozenset()


class Worker:
    """A source and the per-sample work, applied to chunks of records."""

    def __init__(self, job: Job) -> None:
        options = job.options
        self._source = sources.get(options.source["kind"])(options.raw, job.config, options.follow_links)
        self._source.max_pixels, self._source.max_voxels = options.image.max_pixels, options.image.max_voxels
        self._source.volume_options = options.volume
        self._hasher = IdHasher(job.key) if job.key else None
        self._left_out = job.left_out
        self.trail: Trail | None = None
        self._prepare = SampleProcessor(options.image, options.text, job.extractor, self._hasher, options.volume)

    def __call__(self, split: str | None, chunk: list[tuple[int, Record]]) -> list[Sample | Rejected]:
        done = []
        for index, record in chunk:
            if self.trail is not None:
                self.trail.at(index)
            done.append(self._one(split, index, record))
        if self.trail is not None:
            self.trail.at(None)
        return done

    def _one(self, split: str | None, index: int, record: Record) -> Sample | Rejected:
        if index in self._left_out:
            detail = "a process was killed while this was made ready (out of memory?): left out by --resume"
            return self.rejected(index, record, Reject(KILLED, detail))
        try:
            return self._prepare(self._source.sample(record), split)
        except Reject as error:
            reject = error
        except ImageError as error:
            reject = Reject(error.reason, str(error), counted=error.counted)
        except CellError as error:
            reject = Reject(error.reason, error.detail)
        except MemoryError:
            reject = Reject("out_of_memory", "it needs more memory than there is")
        except Exception as error:  # one bad file must not end a run of days; past --max-rejected it does
            reject = Reject("error", f"{type(error).__name__}: {error}")
        return self.rejected(index, record, reject)

    def rejected(self, index: int, record: Record, reject: Reject) -> Rejected:
        """Return the line for rejected.jsonl: where ids are hashed, no detail, which may quote a cell, a name or an id."""
        private = {"key": record.key, "place": self._source.place(record), "detail": reject.detail}
        key, detail = record.key, reject.detail
        if self._hasher is not None:
            key, detail = self._hasher("key", key), ""
        return Rejected(index, key, reject.reason, detail, reject.counted, private)


def run_chunk(job: bytes, split: str | None, chunk: list[tuple[int, Record]]) -> list[Sample | Rejected]:
    """Do a chunk of a pickled job, wherever this is called; the worker that it needs is kept for the next one."""
    return _workers(job)(split, chunk)


@lru_cache(maxsize=1)
def _workers(job: bytes) -> Worker:
    made: Job = pickle.loads(job)
    worker = Worker(made)
    if multiprocessing.parent_process() is not None and made.state.is_dir():  # not in Ray's own processes
        worker.trail = Trail(made.state)
        worker.trail.leave_on_sigterm()
    return worker


class RayTasks(Executor):
    """An executor on a Ray cluster or, without an address, on one that is started here."""

    def __init__(self, address: str = "") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a hospital's machine sends no usage reports
        try:
            import ray
        except ImportError:
            raise ConfigError("--engine ray needs Ray: install vlp[cluster]") from None
        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Return a future of the call."""
        task: Future[Any] = self._ray.remote(function).remote(*arguments, **named).future()
        return task

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of a cluster that was started here."""
        if self._mine:
            self._ray.shutdown()


class Pool:
    """What does the chunks of a job, as a context manager; leaving it early drops what has not been asked for.

    `chunk` records are handed out at a time, and as many samples wait to be written: one, where they are volumes.
    Everything is done in this process until `start` is called with the number of workers to have.
    """

    def __init__(self, job: Job, chunk: int = CHUNK) -> None:
        self.local = Worker(job)
        self._state = job.state
        self._job = pickle.dumps(job)
        self._engine = job.options.engine
        self._executor: Executor | None = None
        self._ahead = 0
        self._chunk = chunk

    def start(self, workers: int) -> None:
        """Start the workers, if that has not been done: they import what they need while the main process goes on.

        "processes" starts `workers` of them here; "ray" or "ray:ADDRESS" sends chunks to a Ray cluster, whose machines must
        see the raw folder under the same path. Raises ConfigError.
        """
        engine, _, address = self._engine.partition(":")
        if engine != "ray" and self._engine != "processes":
            raise ConfigError(f"--engine {self._engine!r}: expected processes, ray or ray:ADDRESS")
        if self._executor is not None:
            return
        if engine == "ray":
            self._executor = tasks = RayTasks(address)
            self._ahead = 2 * tasks.cores
        elif workers:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)
            self._ahead = 3 * workers
        if self._executor is not None:
            for _ in range(workers):
                self._executor.submit(run_chunk, self._job, None, [])

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            collect(self._state, 1)
        if self.local.trail is not None:
            self.local.trail.close()

    def map(self, groups: Iterable[tuple[int, str | None, list[tuple[int, Record]]]]) -> Iterator[Any]:
        """Yield (group, outcome) for each record of (group, split, records), in order; raises ConfigError."""
        pending: deque[tuple[int, Any, list[tuple[int, Record]]]] = deque()
        try:
            for group, split, records in groups:
                for at in range(0, len(records), self._chunk):
                    chunk = records[at : at + self._chunk]
                    if self._executor is None:
                        self.local.trail = self.local.trail or Trail(self._state)
                        yield from ((group, outcome) for outcome in self.local(split, chunk))
                        continue
                    pending.append((group, self._executor.submit(run_chunk, self._job, split, chunk), chunk))
                    if len(pending) > self._ahead:
                        yield from _collect(pending)
            while pending:
                yield from _collect(pending)
        except BrokenProcessPool:
            raise ConfigError(self._died([row for *_, chunk in pending for row in chunk])) from None

    def _died(self, under_way: list[tuple[int, Record]]) -> str:
        """Return what to say when a worker was killed: which records it was at, and that `--resume` leaves them out."""
        assert self._executor is not None
        self._executor.shutdown(wait=True, cancel_futures=True)  # the others have taken their trails away then
        indices = set(collect(self._state, ENOUGH))
        keys = [self.local.rejected(*row, Reject("")).key for row in under_way if row[0] in indices]
        named = f" at {', '.join(f'record {key!r}' for key in keys)}" if keys else ""
        left = " without it" if keys else ""
        return (
            f"a worker was killed{named} (out of memory?): what is written is kept; --resume goes on{left}, perhaps with "
            "fewer --workers"
        )


def _collect(pending: deque[tuple[int, Any, list[tuple[int, Record]]]]) -> Iterator[Any]:
    group, future, _ = pending[0]
    yield from ((group, outcome) for outcome in future.result())
    pending.popleft()
