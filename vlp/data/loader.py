"""Shards to batches: the only reader of training data. Infinite, exact, the same for any number of workers and ranks.

The order is the plan's (`vlp.data.plan`); a worker is given the position of a batch and returns that batch, so workers
hold no state and the loader's whole state is one number. Resuming is starting to count there.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from ..config import ConfigError, config
from ..preprocess import Augment, Preprocess
from ..tokenize import Tokenizer
from ..types import Batch, PromptSpec
from .assemble import Assembler, Prepared
from .manifest import Manifest, ShardSet
from .plan import Draw, Mixture, Order, Plan, rows, seed_of
from .records import SampleError
from .remote import Cache
from .text import TextView, concept_code, show

__all__ = ["DataConfig", "Loader", "LoaderError", "SourceConfig", "TextView", "concept_code"]

log = logging.getLogger(__name__)

VALIDATION_SPLITS = ("val", "valid", "validation", "dev")
MOST_SUBSTITUTES = 100


class LoaderError(RuntimeError):
    """Loading cannot go on: a worker died, a shard is gone, or too many samples are damaged."""


@config
class SourceConfig:
    """A set of shards: folder, manifest file or URL; its share of the stream relative to other sources; its split."""

    path: str
    weight: float = 1.0
    split: str | None = "train"


@config
class DataConfig:
    """What is read and how.

    `train` is a path or a list of sources; with several, each has `weight` / sum of weights of all samples, however
    large it is. `val` is a path, read by its validation split (or whole where it is not split); None takes the
    validation split of the training sources, if there is one. `batch_size` counts all ranks. `window` shards are
    shuffled together. `bucket` puts texts of like length into a batch, within the window. More than the share
    `max_rejected` of damaged samples ends the run. Remote shards are copied to `cache` (a folder, $VLP_CACHE by default).
    """

    train: str | tuple[SourceConfig, ...]
    batch_size: int
    val: str | None = None
    workers: int = 2
    window: int = 16
    bucket: bool = False
    max_rejected: float = 0.01
    text: TextView = TextView()
    labels: tuple[str, ...] = ()
    augment: Augment = Augment()
    cache: str | None = None
    cache_gb: float = 64.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, found {self.workers}")


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    shards: ShardSet
    weight: float


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a worker returns: a batch with the keys that were rejected for it and why, or why there is none."""

    batch: Batch | None
    rejected: tuple[tuple[str, str], ...] = ()
    failure: str = ""

    def pin_memory(self) -> _Reply:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _Batches(Dataset[_Reply]):
    """The batches of one rank, by the position of their first sample."""

    def __init__(self, loader: Loader, training: bool) -> None:
        self.sources, self.plan, self.assembler = loader.sources, loader.order, loader.assembler
        self.size, self.rank, self.world, self.seed = loader.config.batch_size, loader.rank, loader.world, loader.seed
        self.total = loader.samples
        self.training = training

    def __getitem__(self, cursor: int) -> _Reply:
        try:
            return self._train(cursor) if self.training else self._once(cursor)
        except (ConfigError, LoaderError, OSError) as error:
            return _Reply(None, failure=f"{type(error).__name__}: {error}")

    def _train(self, cursor: int) -> _Reply:
        rejected: list[tuple[str, str]] = []
        ready = [self._good(position, rejected) for position in rows(cursor, self.size, self.rank, self.world)]
        batch = self.assembler.batch(ready)
        batch.cursor, batch.rejected = cursor + self.size, len(rejected)
        return _Reply(batch, tuple(rejected))

    def _good(self, position: int, rejected: list[tuple[str, str]]) -> Prepared:
        """Return the sample at a position; for a damaged one, the first good one from a batch further on."""
        for place in (position, *range(position + self.size, position + self.size + MOST_SUBSTITUTES)):
            draw = self.plan.draw(place)
            try:
                return self._prepare(draw, seeded=True)
            except (SampleError, ValueError) as error:
                if isinstance(error, ConfigError):
                    raise
                rejected.append((self.sources[draw.source].shards.key(draw.index), str(error)))
        raise LoaderError(f"{MOST_SUBSTITUTES + 1} damaged samples one after another, the last: {rejected[-1][1]}")

    def _prepare(self, draw: Draw, seeded: bool) -> Prepared:
        source = self.sources[draw.source]
        sample = source.shards.sample(draw.index, masks=False)
        if not sample.source:
            sample = replace(sample, source=source.name)
        seed = seed_of("sample", self.seed, draw.turn, sample.source, sample.key) if seeded else None
        return self.assembler.prepare(sample, seed)

    def _once(self, cursor: int) -> _Reply:
        rejected: list[tuple[str, str]] = []
        ready = []
        for position in rows(cursor, min(self.size, self.total - cursor), self.rank, self.world):
            source, index = 0, position
            while index >= len(self.sources[source].shards):
                index -= len(self.sources[source].shards)
                source += 1
            try:
                ready.append(self._prepare(Draw(position, source, 0, index), seeded=False))
            except (SampleError, ValueError) as error:
                if isinstance(error, ConfigError):
                    raise
                rejected.append((self.sources[source].shards.key(index), str(error)))
        batch = self.assembler.batch(ready)
        batch.cursor, batch.rejected = min(cursor + self.size, self.total), len(rejected)
        return _Reply(batch, tuple(rejected))


class Loader:
    """An infinite iterator of this rank's batches of the training stream, and of one pass over a validation split.

    `needs` and `prompts` come from the objectives. Raises ConfigError for what cannot work: no such split, a batch that
    does not divide among the ranks, fewer samples than a batch holds.
    """

    def __init__(
        self,
        config: DataConfig,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        needs: frozenset[str] = frozenset(),
        prompts: PromptSpec | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        split: str = "train",
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
        self.sources = open_sources(config, split)
        self.samples = sum(len(source.shards) for source in self.sources)
        if split == "train" and self.samples < config.batch_size:
            shards = sum(len(source.shards.manifest.shards) for source in self.sources)
            raise ConfigError(
                f"the training split has {self.samples} samples in {shards} shards, fewer than data.batch_size "
                f"{config.batch_size}: use a smaller batch or more data"
            )
        self.assembler = Assembler(preprocess, tokenizer, config.text, config.augment, config.labels, needs, prompts)
        self.order = self._plan()
        self.digest = self._digest()
        self.cursor = 0
        self.rejected: dict[str, str] = {}

    def _plan(self) -> Plan:
        weights = [source.weight for source in self.sources] or [1.0]
        try:
            quotas = Mixture(weights, self.seed).quotas
            shares = quotas / quotas.sum()
            orders = [
                Order(
                    [shard.samples for shard in source.shards.manifest.shards],
                    source.shards.manifest.digest,
                    self.seed,
                    self.config.window,
                    unit=max(1, round(self.config.batch_size * float(share))) if self.config.bucket else 0,
                    lengths=source.shards.manifest.chars,
                )
                for source, share in zip(self.sources, shares, strict=False)
            ]
            return Plan(orders, weights, self.seed)
        except ValueError as error:
            raise ConfigError(f"data.train: {error}") from None

    def _digest(self) -> str:
        digests = [source.shards.manifest.digest for source in self.sources]
        if len(digests) == 1:
            return digests[0]
        quotas = (int(one) for one in self.order.mixture.quotas)
        return f"{seed_of(*(f'{digest}:{quota}' for digest, quota in zip(digests, quotas, strict=False))):016x}"

    def __len__(self) -> int:
        """Return the number of batches of one pass, a short last one included."""
        return -(-self.samples // self.config.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self.samples:
            raise ConfigError(f"split {self.split!r} is empty")
        for batch in self._read(itertools.count(self.cursor, self.config.batch_size), training=True):
            self.cursor = batch.cursor
            yield batch

    def once(self) -> Iterator[Batch]:
        """Yield the split in its own order, without random choices, every sample on exactly one rank.

        All ranks yield the same number of batches; of a short last one a rank may have fewer rows, or none.
        """
        return self._read(range(0, self.samples, self.config.batch_size), training=False)

    def _read(self, positions: Iterable[int], training: bool) -> Iterator[Batch]:
        loading = DataLoader(
            _Batches(self, training),
            batch_size=None,
            sampler=positions,
            num_workers=self.config.workers,
            collate_fn=_identity,
            worker_init_fn=_prepare_worker,
            pin_memory=torch.cuda.is_available(),
        )
        replies = iter(loading)
        while True:
            try:
                reply: _Reply = next(replies)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise LoaderError(
                    f"rank {self.rank}: a loader worker died ({' '.join(str(error).split())}). A killed worker usually "
                    "means that memory ran out: lower data.workers"
                ) from error
            if reply.batch is None:
                raise LoaderError(f"rank {self.rank}: {reply.failure}")
            self._count(reply.rejected)
            yield reply.batch

    def _count(self, rejected: Iterable[tuple[str, str]]) -> None:
        for key, why in rejected:
            if key not in self.rejected:
                self.rejected[key] = why
                log.warning("rejected sample %s: %s", key, why)
        if len(self.rejected) > self.config.max_rejected * self.samples:
            raise LoaderError(
                f"{len(self.rejected)} of {self.samples} samples are damaged, more than data.max_rejected "
                f"{self.config.max_rejected:g} allows; run `vlp-prep verify`. The last: {next(reversed(self.rejected))!r}"
            )

    def state(self) -> dict[str, Any]:
        """Return the position after the last batch that was yielded, as JSON values."""
        return {
            "seed": self.seed,
            "pass": self.cursor // max(self.samples, 1),
            "cursor": self.cursor,
            "digest": self.digest,
            "window": self.config.window,
            "bucket": self.config.batch_size if self.config.bucket else 0,
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
                "cannot resume: with data.bucket the order depends on data.batch_size, which was "
                f"{state['bucket'] or 'without bucketing'} and is {mine['bucket'] or 'without bucketing'} now"
            )
        self.cursor = int(state["cursor"])

    def texts(self, limit: int = 100_000) -> Iterator[str]:
        """Yield up to `limit` whole training texts in the order of the plan, for training a tokeniser."""
        for position in range(min(limit, self.samples)):
            draw = self.order.draw(position)
            text = show(self.sources[draw.source].shards.record(draw.index), self.config.text, None).text
            if text:
                yield text

    def plan(self, n: int = 2) -> str:
        """Return what would be read by whom, as text: the sources, and the first `n` batches from here."""
        quotas = self.order.mixture.quotas / self.order.mixture.quotas.sum()
        lines = [f"{self.samples} samples, {len(self)} batches of {self.config.batch_size} a pass, seed {self.seed}"]
        for source, share in zip(self.sources, quotas, strict=False):
            manifest = source.shards.manifest
            lines.append(
                f"  {source.name}: {len(manifest)} samples in {len(manifest.shards)} shards, {share:.1%} of the stream, "
                f"digest {manifest.digest[:12]}"
            )
        for number in range(n):
            cursor = self.cursor + number * self.config.batch_size
            for rank in range(self.world):
                mine = rows(cursor, self.config.batch_size, rank, self.world)
                draws = [self.order.draw(position) for position in mine]
                shown = [
                    f"{self.sources[one.source].shards.manifest.shards[shard].shard}#{row}"
                    for one in draws[:4]
                    for shard, row in [self.sources[one.source].shards.manifest.locate(one.index)]
                ]
                more = f" ... ({len(mine)} in all)" if len(mine) > len(shown) else ""
                lines.append(f"  batch at {cursor}, rank {rank}: {', '.join(shown)}{more}")
        return "\n".join(lines)


def open_sources(config: DataConfig, split: str) -> list[_Source]:
    """Open what a split is read from; [] for a validation split that nothing names. Raises ConfigError."""
    cache = Cache(Path(config.cache) if config.cache else None, int(config.cache_gb * 2**30))
    train = (SourceConfig(path=config.train),) if isinstance(config.train, str) else config.train
    if not train:
        raise ConfigError("data.train lists no sources")
    if split == "train":
        chosen = [(one.path, one.split, one.weight) for one in train]
    elif config.val is not None:
        chosen = [(config.val, split, 1.0)]
    else:
        chosen = [(path, split, 1.0) for path in dict.fromkeys(one.path for one in train)]
    sources = []
    for path, name, weight in chosen:
        manifest = Manifest.read(path, cache)
        if split != "train":
            name = _held_out(manifest, split)
            if name is None and (config.val is None or manifest.splits):
                if config.val is not None:
                    manifest.select(split)  # complains, with the splits that there are
                continue
        part = manifest.select(name)
        title = part.shards[0].source or Path(path.rstrip("/")).name
        sources.append(_Source(title, ShardSet(part, cache), weight))
    return sources


def _held_out(manifest: Manifest, split: str) -> str | None:
    names = VALIDATION_SPLITS if split in VALIDATION_SPLITS else (split,)
    return next((name for name in names if name in manifest.splits), None)


def _identity(reply: Any) -> Any:
    return reply


def _prepare_worker(_: int) -> None:
    # parallelism is between workers; threads inside one would only fight the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
