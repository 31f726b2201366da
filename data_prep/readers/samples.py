"""A set of shards for the commands that read one: a damaged sample is left out, named and counted, in each of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from vlp.core.config import ConfigError
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.image.errors import ImageError
from vlp.sample import Sample

T = TypeVar("T")
SHOWN = 20
"""How many rejected samples are named on the console."""


def max_rejected_option(parser: argparse.ArgumentParser) -> None:
    """Declare the limit on damaged samples."""
    words = "fail when more than this share is damaged (default: %(default)s)"
    parser.add_argument("--max-rejected", type=float, default=0.01, help=words)


class Reading:
    """A pass over a set of shards, or one split of it; `rejected` maps the number of each sample left out to why."""

    def __init__(self, folder: Path | str, max_rejected: float, split: str | None = None) -> None:
        self.shards, self.max_rejected = ShardSet(Manifest.read(folder).select(split)), max_rejected
        self.rejected: dict[int, str] = {}
        self._read: set[int] = set()

    def samples(
        self, rows: Iterable[int] | None = None, pixels: bool = True, masks: bool = False
    ) -> Iterator[tuple[int, Sample]]:
        """Yield (number, sample) of all samples or of `rows`, those aside that were rejected here or before.

        Without `pixels`, images are not read, nor masks unless they are asked for. Raises ConfigError for a shard that cannot
        be read.
        """
        for index in range(len(self.shards)) if rows is None else rows:
            if index in self.rejected:
                continue
            self._read.add(index)
            try:
                sample = self.shards.sample(index, masks=pixels or masks, pixels=pixels)
            except SampleError as error:
                self.reject(index, error)
                continue
            except OSError as error:
                shard = self.shards.manifest.shards[self.shards.manifest.locate(index)[0]].shard
                words = error.strerror or str(error)
                raise ConfigError(f"{self.shards.manifest.base}: {shard} cannot be read: {words}") from None
            yield index, sample

    def images(
        self, measure: Callable[[bytes, bool], T], rows: Iterable[int] | None = None
    ) -> Iterator[tuple[int, Sample, T]]:
        """Yield (number, sample, what `measure` returns for its image); where that raises ImageError it is rejected.

        `measure` is called with the encoded image and whether it is a volume.
        """
        for index, sample in self.samples(rows):
            assert isinstance(sample.image, bytes)
            try:
                measured = measure(sample.image, sample.volume is not None)
            except ImageError as error:
                self.reject(index, error)
            else:
                yield index, sample, measured

    def copy(self, samples: Iterable[tuple[int, Sample]], write: Callable[[Sample], object]) -> None:
        """Write samples into another set, each by `write`; one that cannot be written is rejected."""
        for index, sample in samples:
            try:
                write(sample)
            except SampleError as error:
                self.reject(index, error)

    def reject(self, index: int, error: Exception) -> None:
        """Leave a sample out from here on."""
        self.rejected[index] = str(error)

    def finish(self) -> None:
        """Name what was left out, on stderr. Raises ConfigError when it was more than the limit."""
        for index, why in list(self.rejected.items())[:SHOWN]:
            sys.stderr.write(f"rejected key {self.shards.key(index)!r}: {why}\n")
        count, read = len(self.rejected), len(self._read)
        if count:
            sys.stderr.write(f"{count} of {read} samples rejected\n")
        if count > self.max_rejected * read:
            raise ConfigError(f"{count} of {read} samples rejected, more than --max-rejected {self.max_rejected:g}")
