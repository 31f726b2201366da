"""Samples of a set of shards by number: positioned reads of shards, wherever they lie."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.core.untrusted import open_descriptor, open_regular, stays_inside
from vlp.sample import Sample

from .foreign.members import MASKS
from .manifest import Manifest
from .remote.cache import Cache
from .remote.urls import is_remote, join
from .sample_io import SampleError, decode_sample, image_extension

GAP = 64 << 10
MAX_OPEN_FILES = 64


class ShardSet:
    """The samples of a manifest by number. One positioned read per sample whose members are adjacent.

    At most `max_open_files` shards are open, closed in the order of last use. Reads carry their own position, so a forked
    worker may inherit open files; a pickled copy starts with none.
    """

    def __init__(self, manifest: Manifest, cache: Cache | None = None, max_open_files: int = MAX_OPEN_FILES) -> None:
        self.manifest, self.cache, self.max_open_files = manifest, cache or Cache(), max_open_files
        self.paths = [join(manifest.base, shard.shard) for shard in manifest.shards]
        self.is_remote = any(is_remote(path) for path in self.paths)
        self._prefetched: list[int] = []
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def key(self, index: int) -> str:
        return self.manifest.key(index)

    def sample(self, index: int, masks: bool = True, pixels: bool = True) -> Sample:
        """Return sample `index`, image and masks as encoded bytes; without `pixels`, `image` is empty bytes.

        Raises SampleError for a damaged one, ManifestError where it has several images, OSError when its shard is missing
        or out of reach.
        """
        shard, row = self.manifest.locate(index)
        columns, header = self.manifest.columns(shard), self.manifest.shards[shard]
        key, members = columns.key(row), columns.members(row)
        if not masks:
            members = {name: place for name, place in members.items() if not name.endswith(MASKS)}
        unread = None if pixels else image_extension(members, key)
        data = self.read(shard, {name: place for name, place in members.items() if name != unread})
        for name, content in data.items():
            if len(content) != members[name][1]:
                raise SampleError(f"{header.shard}: key {key!r} lies beyond the end of the file")
        if unread is not None:
            data[unread] = b""
        sample = decode_sample(key, data, header.shard)
        return sample if sample.source or not header.source else replace(sample, source=header.source)

    def record(self, index: int) -> Sample:
        """Return sample `index` without reading its pixels: `image` is empty bytes and there are no masks."""
        return self.sample(index, masks=False, pixels=False)

    def read(self, shard: int, members: dict[str, tuple[int, int]]) -> dict[str, bytes]:
        """Return the members (offset, size) of a sample; short where the file ends early.

        Raises OSError when the file is missing or no regular file, or remote and out of reach.
        """
        if not members:
            return {}
        handle = self._open.get(shard)
        if handle is None:
            handle = self._open[shard] = open_descriptor(self.local(shard))
            while len(self._open) > self.max_open_files:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(shard)
        first = min(offset for offset, _ in members.values())
        last = max(offset + size for offset, size in members.values())
        if last - first > sum(size for _, size in members.values()) + GAP:
            return {name: _pread(handle, *place) for name, place in members.items()}
        data = _pread(handle, first, last - first)
        return {name: data[offset - first : offset - first + size] for name, (offset, size) in members.items()}

    def local(self, shard: int) -> Path:
        """Return where a shard lies on this machine, copied there when it is remote. Raises OSError.

        A link out of the set's folder is followed where it leads to the very file that the manifest describes: other
        people's manifests and links together could name any file of this machine.
        """
        path, header = self.paths[shard], self.manifest.shards[shard]
        if is_remote(path):
            return self.cache.fetch(path, header.bytes, header.sha256)
        local, folder = Path(path), self.manifest.base
        if not is_remote(folder) and local.exists() and not stays_inside(Path(folder), local):
            with open_regular(local) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != header.sha256:
                    raise OSError(errno.EPERM, "is a link out of the folder, to a file that is not this shard", path)
        return local

    def prefetch(self, shards: list[int]) -> None:
        """Start to copy remote shards in the background, so that they are here when their samples are wanted."""
        if shards != self._prefetched:
            self._prefetched = shards
            threading.Thread(target=self._fetch, args=(shards,), daemon=True).start()

    def _fetch(self, shards: list[int]) -> None:
        for shard in shards:
            if is_remote(self.paths[shard]):
                with contextlib.suppress(OSError):  # the reader that needs the file tries again, and reports
                    self.local(shard)


def _pread(handle: int, offset: int, size: int) -> bytes:
    data = os.pread(handle, size, offset)
    while 0 < len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
