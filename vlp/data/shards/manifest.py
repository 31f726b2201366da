"""What there is: the manifest of a set of shards, random access to its samples, indexing and verifying. No torch.

`manifest.jsonl` holds one line per shard (`vlp.data.shards.tar_index`). Opening a set reads the headers; the columns of a shard
are parsed when one of its samples is wanted and a bounded number of them is kept, so memory does not grow with the set.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from vlp.core.registry import did_you_mean
from vlp.core.untrusted import RefusedError, open_regular

from .foreign.index import Choices as Choices
from .reader import join
from .remote.cache import Cache
from .remote.urls import check_host, host_of, is_remote
from .tar_index import (
    FILE,
    Columns,
    ManifestError,
    Shard,
    parse_columns,
    parse_header,
)

MAX_PARSED = 64


MAX_LINE = 64 << 20


"""How many of the samples of a shard that were left out are named."""


log = logging.getLogger(__name__)


class Manifest:
    """The shards of a set, in order. `len()` counts samples; `digest` changes when any content or its order does."""

    def __init__(self, base: str, path: Path, shards: Sequence[Shard], lines: np.ndarray) -> None:
        self.base = base
        self.path = path
        self.shards = tuple(shards)
        self._lines = lines  # [S, 2] position and length of each shard's line in the file
        self._parsed: OrderedDict[int, Columns] = OrderedDict()
        self.start = np.concatenate([[0], np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)])

    @classmethod
    def read(cls, place: Path | str, cache: Cache | None = None) -> Manifest:
        """Read the manifest of a folder, a `manifest.jsonl` file, or the URL of either. Raises ManifestError."""
        text, cache = str(place), cache or Cache()
        hosts = cache.hosts
        if is_remote(text):
            url = text if text.endswith(".jsonl") else join(text, FILE)
            try:
                path = cache.fetch_fresh(url)
            except OSError as error:
                raise ManifestError(str(error)) from None
            base = url.rpartition("/")[0]
            hosts |= {host_of(url)}
        else:
            path = Path(text) / FILE if Path(text).is_dir() else Path(text)
            base = str(path.parent)
            if not path.exists():
                raise ManifestError(_missing(path))
        try:
            shards, lines = _read_headers(path, hosts)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from None
        if not shards:
            raise ManifestError(f"{path} lists no shards")
        names = {shard.shard for shard in shards}
        if len(names) < len(shards):
            raise ManifestError(f"{path} lists a shard twice")
        return cls(base, path, shards, np.array(lines, dtype=np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        return int(self.start[-1])

    def __repr__(self) -> str:
        return f"Manifest({self.base}: {len(self.shards)} shards, {len(self)} samples)"

    @property
    def digest(self) -> str:
        """A sha256 of the shards' hashes, counts and order; wherever they lie and whatever they are called."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.samples} {shard.bytes} {shard.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return sorted({shard.split for shard in self.shards if shard.split})

    @property
    def texts(self) -> int:
        """How many samples have a text."""
        counts = (
            int((self.chars(number) > 0).sum()) if shard.texts is None else min(shard.texts, shard.samples)
            for number, shard in enumerate(self.shards)
        )
        return sum(counts)

    def select(self, split: str | None) -> Manifest:
        """Return the part of a split, everything for None. Raises ManifestError naming the splits that there are.

        A set in which no shard names a split is all "train".
        """
        if split is None or (split == "train" and not self.splits):
            return self
        chosen = [index for index, one in enumerate(self.shards) if one.split == split]
        if not chosen:
            if not self.splits:
                raise ManifestError(f"{self.path}: no split {split!r}: the set is not split (split: null reads it all)")
            raise ManifestError(f"{self.path}: no split {split!r}{did_you_mean(split, self.splits)}")
        part = Manifest(self.base, self.path, [self.shards[index] for index in chosen], self._lines[chosen])
        if len(part) == 0:
            raise ManifestError(f"{self.path}: split {split!r} is empty")
        return part

    def columns(self, shard: int) -> Columns:
        """Return the columns of a shard, parsed when needed."""
        found = self._parsed.get(shard)
        if found is None:
            position, length = self._lines[shard]
            with open_regular(self.path) as file:
                file.seek(int(position))
                line = file.read(int(length))
            where = f"{self.path}: {self.shards[shard].shard}"
            if parse_header(line, where) != self.shards[shard]:
                raise ManifestError(f"{where}: the manifest was changed while it was in use; start again")
            found = self._parsed[shard] = parse_columns(line, where)
            while len(self._parsed) > MAX_PARSED:
                self._parsed.popitem(last=False)
        else:
            self._parsed.move_to_end(shard)
        return found

    def locate(self, index: int) -> tuple[int, int]:
        """Return (shard, row) of sample `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self.start, index, side="right")) - 1
        return shard, index - int(self.start[shard])

    def key(self, index: int) -> str:
        shard, row = self.locate(index)
        return self.columns(shard).key(row)

    def chars(self, shard: int) -> np.ndarray:
        """Return the report lengths of a shard's samples in characters, int32 [n]."""
        return self.columns(shard).chars


def _read_headers(path: Path, hosts: Collection[str]) -> tuple[list[Shard], list[tuple[int, int]]]:
    """Return the shards of a manifest file, and the position and length of each one's line. Raises OSError too."""
    shards, lines = [], []
    position = 0
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > MAX_LINE:
                raise ManifestError(f"{where}: a line of more than {MAX_LINE} bytes")
            if line.strip():
                shards.append(parse_header(line, where))
                lines.append((position, len(line)))
                if is_remote(shards[-1].shard):
                    try:
                        check_host(shards[-1].shard, hosts)
                    except RefusedError as error:
                        raise ManifestError(f"{where}: shard {error}") from None
            position += len(line)
    return shards, lines


def _missing(path: Path) -> str:
    folder = path.parent if path.name == FILE else path
    if not folder.is_dir():
        near = did_you_mean(
            folder.name, [sibling.name for sibling in folder.parent.glob("*")] if folder.parent.is_dir() else []
        )
        return f"no such folder: {folder}{near if 'mean' in near else ''}"
    if any(folder.glob("*.tar")):
        return f"no {FILE} in {folder}: run `vlp-prep index {folder}` once"
    return f"no {FILE} and no *.tar in {folder}: expected a folder of shards"
