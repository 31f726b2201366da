"""Positioned reads of shards, wherever they lie: a bounded set of open files, and a local copy of what is remote."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vlp.core.untrusted import open_descriptor, open_regular, stays_inside

from .remote.cache import Cache
from .remote.urls import is_remote

MAX_OPEN_FILES = 64


def join(base: str, name: str) -> str:
    """Return where a shard lies: `name` below the folder or URL `base`, or `name` itself where it is a URL."""
    return name if is_remote(name) else f"{base.rstrip('/')}/{name}"


class Files:
    """Open shard files of one process, closed in the order of last use when there are too many.

    `folder` is the set's own, where it lies on this machine.
    Reads carry their own position, so a forked worker may inherit open files; a pickled copy starts with none.
    """

    def __init__(self, cache: Cache | None = None, limit: int = MAX_OPEN_FILES, folder: str | None = None) -> None:
        self.cache = cache or Cache()
        self.limit = limit
        self.folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "limit": self.limit, "folder": self.folder, "_open": OrderedDict()}

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def read(self, path: str, offset: int, size: int, expected: tuple[int, str]) -> bytes:
        """Return `size` bytes at `offset`; short where the file ends early. `expected` is a shard's (bytes, sha256).

        Raises OSError when the file is missing or no regular file, or remote and out of reach.
        """
        handle = self._open.get(path)
        if handle is None:
            handle = open_descriptor(self.local(path, expected))
            self._open[path] = handle
            while len(self._open) > self.limit:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(path)
        data = os.pread(handle, size, offset)
        while 0 < len(data) < size:
            more = os.pread(handle, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def local(self, path: str, expected: tuple[int, str]) -> Path:
        """Return where a shard lies on this machine, copied there when it is remote. Raises OSError.

        A link out of the set's folder is followed where it leads to the very file that the manifest describes: other
        people's manifests and links together could name any file of this machine.
        """
        if is_remote(path):
            return self.cache.fetch(path, *expected)
        local = Path(path)
        if self.folder is not None and local.exists() and not stays_inside(Path(self.folder), local):
            with open_regular(local) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected[1]:
                    raise OSError(errno.EPERM, "is a link out of the folder, to a file that is not this shard", path)
        return local

    def prefetch(self, places: list[tuple[str, int, str]]) -> None:
        """Start to copy remote files (path, bytes, sha256) in the background."""
        threading.Thread(target=_fetch, args=(self.cache, places), daemon=True).start()


def _fetch(cache: Cache, places: list[tuple[str, int, str]]) -> None:
    for path, size, sha256 in places:
        if is_remote(path):
            with contextlib.suppress(OSError):  # the reader that needs the file tries again, and reports
                cache.fetch(path, size, sha256)
