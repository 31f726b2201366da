"""Training from streams that cannot seek (`pipe:curl ...`), through webdataset's own pipeline: a weaker guarantee.

Each worker of each rank reads its own part of the shards, over and over, through a shuffle buffer. Batches have their
full size, no rank runs dry, and random draws follow from (seed, epoch, key). But the order depends on the numbers of
workers and ranks, an epoch is not the same for all, and a resumed run starts its shards anew: samples may be repeated.
Copy the shards somewhere that can seek (a disk, https, an object store) for the exact order. A pipe is a command of the
shell: only the user's own recipe or command line can name one, never a manifest.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from vlp.core.config import ConfigError
from vlp.modalities.image.errors import ImageError
from vlp.modalities.text.shared_words import PatientText
from vlp.sample import Sample

from .collate import Collator, DecodedSample, LoaderError, WorkerResult, select_text
from .config import DataConfig
from .sampling import permutation, seed_of
from .shards.sample_io import SampleError, decode_sample
from .shards.tar_index import is_safe_name

BUFFER = 1000
ADJACENT = "In a stream the members of a sample must follow one another: sort the members of the tar by name"


def shards_of(path: str, ranks: int, workers: int) -> list[str]:
    """Return the shard commands that `path` with its braces stands for.

    Raises ConfigError with the numbers when a worker of some rank would have none.
    """
    import braceexpand

    shards = list(braceexpand.braceexpand(path))
    readers = ranks * max(workers, 1)
    if len(shards) < readers:
        raise ConfigError(
            f"{path}: {len(shards)} shards for {ranks} ranks with {max(workers, 1)} workers each, and a stream cannot be "
            f"shared: at least {readers} shards, or fewer data.workers"
        )
    return shards


class PipeStream:
    """What `vlp.data.stream.Stream` is, for a stream: how many samples there are is not known (0), nor how many texts."""

    samples = 0
    without_text = None

    def __init__(self, config: DataConfig, seed: int, ranks: int) -> None:
        sources = [source.path for source in config.sources]
        if len(sources) != 1:
            raise ConfigError(f"data.train: a pipe cannot be mixed with other sources (found {len(sources)} sources)")
        self.config, self.seed = config, seed
        self.shards = shards_of(sources[0], ranks, config.workers)
        self.digest = hashlib.sha256("\n".join(self.shards).encode()).hexdigest()

    def trained_on(self) -> list[dict[str, Any]]:
        """Return nothing: the name of a pipe does not say what it brings."""
        return []

    def texts(self, limit: int = 100_000) -> Iterator[str]:
        """Yield up to `limit` texts in the order of the stream."""
        found = (
            PatientText(select_text(sample, None, self.config.text).text, sample.patient or sample.study or sample.key)
            for sample in samples(self.shards)
        )
        return itertools.islice((text for text in found if text), limit)

    def has_texts(self, count: int) -> bool:
        """Return whether any of the first `count` samples has a text."""
        first = itertools.islice(samples(self.shards), count)
        return any(select_text(sample, None, self.config.text).text.strip() for sample in first)

    def describe(self, cursor: int, n: int, world: int) -> str:
        """Return which shards are read by which rank, as text; `n` and `cursor` mean nothing to a stream."""
        lines = [f"a stream of {len(self.shards)} shards, read in an order that depends on ranks and workers"]
        workers = max(self.config.workers, 1)
        for rank in range(world):
            mine = [
                shard for worker in range(workers) for shard in self.shards[rank * workers + worker :: world * workers]
            ]
            lines.append(f"  rank {rank}: {len(mine)} shards, first {mine[0]}")
        return "\n".join(lines)


class PipeDataset(IterableDataset[WorkerResult]):
    """One rank's batches from `cursor` on, without end; see the module for what is not promised."""

    def __init__(self, stream: PipeStream, collator: Collator, rank: int, world: int, cursor: int) -> None:
        self.shards, self.seed, self.collator = stream.shards, stream.seed, collator
        self.size, self.most_rejected = stream.config.batch_size, stream.config.max_rejected
        self.rank, self.world, self.cursor = rank, world, cursor

    def __iter__(self) -> Iterator[WorkerResult]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        try:
            yield from self._results(self.rank * workers + number, self.world * workers, number, workers)
        except (
            LoaderError,
            OSError,
            ValueError,
            EOFError,
            tarfile.TarError,
        ) as error:  # reported in one line by the main process
            yield WorkerResult(None, failure=f"{type(error).__name__}: {error}")

    def _results(self, reader: int, readers: int, number: int, workers: int) -> Iterator[WorkerResult]:
        ready: list[DecodedSample] = []
        rejected: list[tuple[str, str]] = []
        bad = 0
        # batches are taken from the workers in turn
        cursor = self.cursor + self.size * (number + 1)
        for seen, (epoch, key, members) in enumerate(self._members(reader, readers), 1):
            try:
                sample = decode_sample(key, members, "stream")
                ready.append(self.collator.decode(sample, seed_of("sample", self.seed, epoch, sample.source, key)))
            except (SampleError, ImageError) as error:
                rejected.append((key, str(error)))
                bad += 1
                if bad > 10 and bad > self.most_rejected * seen:
                    raise LoaderError(
                        f"{bad} of {seen} samples of the stream are damaged, the last: {error}. {ADJACENT}"
                    ) from None
            if len(ready) == self.size // self.world:
                batch = self.collator.collate(ready)
                batch.cursor, batch.rejected = cursor, len(rejected)
                yield WorkerResult(batch, tuple(rejected))
                ready, rejected, cursor = [], [], cursor + self.size * workers

    def _members(self, reader: int, readers: int) -> Iterator[tuple[int, str, dict[str, bytes]]]:
        """Yield (epoch, key, members) without end, from every `readers`-th shard of each epoch's order."""
        mine = self.shards[reader::readers]
        epoch = 0
        while True:
            order = permutation(seed_of("stream", self.seed, self.cursor, reader, epoch), len(mine))
            rng = random.Random(seed_of("buffer", self.seed, self.cursor, reader, epoch))
            empty = True
            for key, members in _read([mine[index] for index in order], rng):
                empty = False
                yield epoch, key, members
            if empty:
                raise LoaderError(f"the stream has no samples: {mine[0]}")
            epoch += 1


def _read(shards: list[str], rng: random.Random | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key and the members of each sample of some shards, in their order or shuffled."""
    import webdataset

    shuffled = [webdataset.shuffle(BUFFER, rng=rng)] if rng is not None else []
    members = webdataset.tarfile_to_samples(select_files=is_safe_name)
    for record in webdataset.DataPipeline(webdataset.SimpleShardList(shards), members, *shuffled):
        named = {name: data for name, data in record.items() if isinstance(data, bytes) and not name.startswith("__")}
        yield record["__key__"], named


def samples(shards: list[str]) -> Iterator[Sample]:
    """Yield the samples of a stream once, in its order, for reading texts; damaged ones are passed over."""
    for key, members in _read(shards):
        with suppress(SampleError):
            yield decode_sample(key, members, "stream")
