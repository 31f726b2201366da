"""What a run reads: its sources, opened and put in order, and whether they hold what the objectives will read.

The first samples of the stream are probed before the first step. An objective on mentions would train on nothing, in
silence, where the shards have none: an empty batch of mentions is legitimate, a data set without any is a mistake.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError
from vlp.modalities.base import ImageLike
from vlp.modalities.text.shared_words import PatientText
from vlp.needs import Need

from .collate import select_text
from .config import VALIDATION_SPLITS, DataConfig, is_pipe
from .pipe_stream import ADJACENT, PipeStream
from .sampling import Mixture, Order, Plan, rows, seed_of
from .shards.foreign.members import CAPTION_MEMBERS, TEXT_MEMBERS, VOLUME, images
from .shards.manifest import Manifest
from .shards.remote.cache import Cache
from .shards.sample_io import SampleError
from .shards.shard_set import ShardSet

log = logging.getLogger(__name__)

N_PROBED = 256
"""Samples that are looked at before something counts as missing; the first that has it ends the search."""


@dataclass(frozen=True, slots=True)
class Source:
    """An opened part of a set of shards."""

    name: str
    shards: ShardSet
    weight: float

    @property
    def kind(self) -> str:
        """Whether it holds images or volumes (`image`, `volume`), by the members of its first sample."""
        shard, row = self.shards.manifest.locate(0)
        names = images(tuple(self.shards.manifest.columns(shard).members(row)))
        return "volume" if any(name.rpartition(".")[2] == VOLUME for name in names) else "image"


def too_many_rejected(rejected: dict[str, str], samples: int, most: float) -> str | None:
    """Return what to say when more than the share `most` of the samples was rejected, None when it is not."""
    if len(rejected) <= most * samples:
        return None
    return (
        f"{len(rejected)} of {samples} samples are damaged, more than data.max_rejected {most:g} allows; "
        f"run `vlp-prep verify`. The last: {next(reversed(rejected))!r}"
    )


class Stream:
    """The samples of a split of all sources, and the endless order in which training reads them.

    Raises ConfigError for what cannot work: no such split, fewer samples than a batch holds.
    """

    def __init__(self, config: DataConfig, seed: int, split: str = "train") -> None:
        self.config, self.seed = config, seed
        self.sources = open_sources(config, split)
        self.samples = sum(len(source.shards) for source in self.sources)
        self.without_text = self.samples - sum(source.shards.manifest.texts for source in self.sources)
        if split == "train" and self.samples < config.batch_size:
            shards = sum(len(source.shards.manifest.shards) for source in self.sources)
            raise ConfigError(
                f"the training split has {self.samples} samples in {shards} shards, fewer than data.batch_size "
                f"{config.batch_size}: use a smaller batch or more data"
            )
        self.kinds = frozenset(source.kind for source in self.sources)
        self.plan = self._make_plan()
        self.digest = self._digest()

    @property
    def unit(self) -> int:
        """How many positions belong to one source: one, or a batch where images and volumes, which share none, are mixed."""
        return self.config.batch_size if len(self.kinds) > 1 else 1

    def spans(self) -> list[range]:
        """Return the places of the split in its own order that may share batches: all, or each source's."""
        edges = list(accumulate((len(source.shards) for source in self.sources), initial=0))
        return [range(low, high) for low, high in pairwise(edges if self.unit > 1 else (0, self.samples))]

    def _make_plan(self) -> Plan:
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
                    unit=self._bucket_of(float(share)) if self.config.bucket else 0,
                    lengths=source.shards.manifest.chars,
                )
                for source, share in zip(self.sources, shares, strict=False)
            ]
            return Plan(orders, weights, self.seed, self.unit)
        except ValueError as error:
            raise ConfigError(f"data.train: {error}") from None

    def _bucket_of(self, share: float) -> int:
        """Return how many samples of a source come together in a batch."""
        return self.config.batch_size if self.unit > 1 else max(1, round(self.config.batch_size * share))

    def _digest(self) -> str:
        digests = [source.shards.manifest.digest for source in self.sources]
        if len(digests) == 1:
            return digests[0]
        quotas = (int(quota) for quota in self.plan.mixture.quotas)
        return f"{seed_of(*(f'{digest}:{quota}' for digest, quota in zip(digests, quotas, strict=False))):016x}"

    def trained_on(self) -> list[dict[str, Any]]:
        """Return for each source its digest and the first 16 digits of its shards' sha256: what a checkpoint keeps of it."""
        manifests = (source.shards.manifest for source in self.sources)
        return [
            {"digest": found.digest, "shards": [shard.sha256[:16] for shard in found.shards]} for found in manifests
        ]

    def texts(self, limit: int = 100_000) -> Iterator[str]:
        """Yield up to `limit` whole training texts in the order of the plan, for training a tokeniser.

        Unreadable records are left out and logged; raises ConfigError when `max_rejected` does not allow so many.
        """
        rejected: dict[str, str] = {}
        for position in range(min(limit, self.samples)):
            draw = self.plan.draw(position)
            shards = self.sources[draw.source].shards
            try:
                sample = shards.record(draw.index)
                text = select_text(sample, None, self.config.text).text
            except SampleError as error:
                rejected[shards.key(draw.index)] = str(error)
                log.warning("rejected the text of sample %s: %s", shards.key(draw.index), error)
                if problem := too_many_rejected(rejected, self.samples, self.config.max_rejected):
                    raise ConfigError(problem) from None
                continue
            if text:
                yield PatientText(text, sample.patient or sample.study or sample.key)

    def describe(self, cursor: int, n: int, world: int) -> str:
        """Return which rank would read what, as text: the sources, and `n` batches from `cursor` on."""
        quotas = self.plan.mixture.quotas / self.plan.mixture.quotas.sum()
        size = self.config.batch_size
        lines = [f"{self.samples} samples, {-(-self.samples // size)} batches of {size} an epoch, seed {self.seed}"]
        if self.without_text:
            lines.append(
                f"  {self.without_text} of {self.samples} samples have no text: they train as images without one"
            )
        for source, share in zip(self.sources, quotas, strict=False):
            manifest = source.shards.manifest
            lines.append(
                f"  {source.name}: {len(manifest)} samples in {len(manifest.shards)} shards, {share:.1%} of the stream, "
                f"digest {manifest.digest[:12]}"
            )
        for start in range(cursor, cursor + n * size, size):
            for rank in range(world):
                mine = rows(start, size, rank, world)
                draws = [self.plan.draw(position) for position in mine]
                shown = [
                    f"{self.sources[draw.source].shards.manifest.shards[shard].shard}#{row}"
                    for draw in draws[:4]
                    for shard, row in [self.sources[draw.source].shards.manifest.locate(draw.index)]
                ]
                more = f" ... ({len(mine)} in all)" if len(mine) > len(shown) else ""
                lines.append(f"  batch at {start}, rank {rank}: {', '.join(shown)}{more}")
        return "\n".join(lines)


def open_sources(config: DataConfig, split: str) -> list[Source]:
    """Open what a split is read from; [] for a validation split that nothing names. Raises ConfigError."""
    cache = Cache(Path(config.cache) if config.cache else None, int(config.cache_gb * 2**30))
    train = [source for source in config.sources if not is_pipe(source.path)]
    if not config.sources:
        raise ConfigError("data.train lists no sources")
    if split == "train":
        chosen = [(source.path, source.split, source.weight) for source in train]
    elif config.val is not None:
        if is_pipe(config.val):
            raise ConfigError(f"data.val: {config.val} is a stream; validation needs shards that can seek")
        chosen = [(config.val, split, 1.0)]
    else:
        chosen = [(path, split, 1.0) for path in dict.fromkeys(source.path for source in train)]
    sources = []
    names = VALIDATION_SPLITS if split in VALIDATION_SPLITS else (split,)
    for path, name, weight in chosen:
        manifest = Manifest.read(path, cache)
        if split != "train":
            name = next((held_out for held_out in names if held_out in manifest.splits), None)
            if name is None and (config.val is None or manifest.splits):
                if config.val is not None:
                    manifest.select(split)  # raises, with the splits that there are
                continue
        part = manifest.select(name)
        title = part.shards[0].source or Path(path.rstrip("/")).name
        sources.append(Source(title, ShardSet(part, cache), weight))
    return sources


def open_stream(config: DataConfig, seed: int, split: str, ranks: int) -> Stream | PipeStream:
    """Open what a split is read from. Raises ConfigError."""
    if split == "train" and any(is_pipe(source.path) for source in config.sources):
        return PipeStream(config, seed, ranks)
    return Stream(config, seed, split)


def check_texts(stream: Stream | PipeStream) -> None:
    """Raise ConfigError where no sample has a text; say in the log how many have none. Of a pipe the first are read."""
    if isinstance(stream, PipeStream):
        if not stream.has_texts(N_PROBED):
            raise ConfigError(
                f"data.train: none of the first {N_PROBED} samples of the stream has a text, and the objectives need texts. "
                f"{ADJACENT}"
            )
        return
    if not stream.without_text:
        return
    if stream.without_text < stream.samples:
        log.warning(
            "%d of %d training samples have no text: they train as images without one, left out of every objective that "
            "needs a text (vlp-prep index says which members are there)",
            stream.without_text,
            stream.samples,
        )
        return
    members = sorted({name for source in stream.sources for name in source.shards.manifest.columns(0).extensions})
    raise ConfigError(
        f"data.train: none of the {stream.samples} samples has a text, and the objectives need texts. Members that are "
        f"there: {', '.join(members)}. A text is read from a member {', '.join((*TEXT_MEMBERS, *CAPTION_MEMBERS))}, from "
        "fields of these names of a json, or from the member or field that you name: vlp-prep index FOLDER --text NAME"
    )


def check_kinds(stream: Stream, preprocess: ImageLike[Any]) -> None:
    """Raise ConfigError naming the first source that holds what the model does not read, images or volumes."""
    for source in stream.sources:
        if source.kind not in preprocess.kinds:
            remedy = (
                "`volume.image` with the tower `slices` reads both"
                if source.kind == "image"
                else "a recipe with `volume`"
            )
            raise ConfigError(
                f"data: {source.name} holds {source.kind}s, and the recipe's model reads {' and '.join(preprocess.kinds)}s: "
                f"give it others, or use {remedy}"
            )


def check_content(stream: Stream, needs: Iterable[Need]) -> None:
    """Raise ConfigError naming the first thing that none of the stream's first samples holds, and how to get it."""
    missing = [need for need in needs if need.holds()]
    with_masks = any(need.reads_masks for need in missing)
    stated: set[str] = set()
    codes: set[str] = set()
    looked = 0
    for position in range(min(N_PROBED, stream.samples)):
        if not missing:
            return
        draw = stream.plan.draw(position)
        try:
            sample = stream.sources[draw.source].shards.sample(draw.index, masks=with_masks, pixels=False)
        except SampleError:
            continue
        looked += 1
        stated.update(sample.labels)
        codes.update(mention.code for mention in sample.concepts)
        missing = [need for need in missing if not need.is_in(sample)]
    if missing and looked:
        first = missing[0]
        there = f"; labels there: {_first_names(stated)}; codes of concepts there: {_first_names(codes)}"
        raise ConfigError(
            f"data.train: an objective needs {first.name}, and none of the first {looked} samples holds {first.holds()}{there}"
        )


def _first_names(names: set[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"
