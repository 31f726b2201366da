"""The samples of a set, for the commands that read shards: a damaged one is left out, named and counted, in each of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from vlp.core.config import ConfigError
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample

SHOWN = 20
"""How many rejected samples are named on the console."""


def max_rejected_option(parser: argparse.ArgumentParser) -> None:
    """Declare the limit on damaged samples."""
    parser.add_argument(
        "--max-rejected", type=float, default=0.01, help="fail when more than this share is damaged (default: 0.01)"
    )


class Reading:
    """A pass over a set of shards; `rejected` maps the number of each sample that was left out to why."""

    def __init__(self, shards: ShardSet, max_rejected: float) -> None:
        self.shards, self.max_rejected = shards, max_rejected
        self.rejected: dict[int, str] = {}
        self._read: set[int] = set()

    def samples(self, rows: Iterable[int] | None = None, pixels: bool = True) -> Iterator[tuple[int, Sample]]:
        """Yield (number, sample) of all samples or of `rows`, those aside that were rejected here or before.

        Without `pixels`, images and masks are not read. Raises ConfigError for a shard that cannot be read.
        """
        for index in range(len(self.shards)) if rows is None else rows:
            if index in self.rejected:
                continue
            self._read.add(index)
            try:
                sample = self.shards.sample(index) if pixels else self.shards.record(index)
            except SampleError as error:
                self.reject(index, error)
                continue
            except OSError as error:
                shard = self.shards.manifest.shards[self.shards.manifest.locate(index)[0]].shard
                raise ConfigError(f"{self.shards.manifest.base}: {shard} cannot be read: {_words(error)}") from None
            yield index, sample

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


def _words(error: OSError) -> str:
    return error.strerror or str(error)
