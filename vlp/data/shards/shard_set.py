"""Samples of a set of shards by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vlp.sample import Sample

from .foreign.index import Choices as Choices
from .manifest import Manifest
from .reader import Files, join
from .remote.cache import Cache
from .remote.urls import is_remote
from .sample_io import SampleError, build
from .tar_index import (
    image_extension,
)

GAP = 64 << 10


class ShardSet:
    """The samples of a manifest by number. One positioned read per sample whose members are adjacent."""

    def __init__(self, manifest: Manifest, cache: Cache | None = None) -> None:
        self.manifest = manifest
        self.files = Files(cache, folder=None if is_remote(manifest.base) else manifest.base)
        self.is_remote = any(is_remote(join(manifest.base, shard.shard)) for shard in manifest.shards)
        self._prefetched: list[int] = []

    def __len__(self) -> int:
        return len(self.manifest)

    def key(self, index: int) -> str:
        return self.manifest.key(index)

    def sample(self, index: int, masks: bool = True) -> Sample:
        """Return sample `index`, image and masks as encoded bytes.

        Raises SampleError for a damaged one, ManifestError where it has several images, OSError when its shard is missing
        or out of reach.
        """
        return self._sample(index, lambda name: masks or not name.endswith(".mask.png"))

    def record(self, index: int) -> Sample:
        """Return sample `index` without reading its pixels: `image` is empty bytes and there are no masks."""
        shard, row = self.manifest.locate(index)
        extension = image_extension(self.manifest.columns(shard).members(row)) or ""
        return self._sample(index, lambda name: name != extension and not name.endswith(".mask.png"), {extension: b""})

    def prefetch(self, shards: list[int]) -> None:
        """Start to copy remote shards in the background, so that they are here when their samples are wanted."""
        if shards != self._prefetched:
            self._prefetched = shards
            headers = [self.manifest.shards[number] for number in shards]
            self.files.prefetch(
                [(join(self.manifest.base, header.shard), header.bytes, header.sha256) for header in headers]
            )

    def _sample(self, index: int, wanted: Callable[[str], bool], instead: dict[str, bytes] | None = None) -> Sample:
        shard, row = self.manifest.locate(index)
        columns = self.manifest.columns(shard)
        header = self.manifest.shards[shard]
        members = {name: place for name, place in columns.members(row).items() if wanted(name)}
        data = self._read(shard, members)
        for name, (_, size) in members.items():
            if len(data[name]) != size:
                raise SampleError(f"{header.shard}: key {columns.key(row)!r} lies beyond the end of the file")
        sample = build(columns.key(row), {**data, **(instead or {})}, header.shard)
        return sample if sample.source or not header.source else replace(sample, source=header.source)

    def _read(self, shard: int, members: dict[str, tuple[int, int]]) -> dict[str, bytes]:
        header = self.manifest.shards[shard]
        path = join(self.manifest.base, header.shard)
        expected = (header.bytes, header.sha256)
        if not members:
            return {}
        first = min(offset for offset, _ in members.values())
        last = max(offset + size for offset, size in members.values())
        if last - first > sum(size for _, size in members.values()) + GAP:
            return {name: self.files.read(path, *place, expected) for name, place in members.items()}
        data = self.files.read(path, first, last - first, expected)
        return {name: data[offset - first : offset - first + size] for name, (offset, size) in members.items()}
