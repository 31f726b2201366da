"""Positioned reads of shards, wherever they lie: a bounded set of open files, and a local copy of what is remote."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from .remote import Cache

MAX_OPEN_FILES = 64


def is_remote(path: str) -> bool:
    """Return whether a path is a URL (`https://`, `s3://`, `hf://`, ...)."""
    return "://" in path


def join(base: str, name: str) -> str:
    """Return where a shard lies: `name` below the folder or URL `base`, or `name` itself where it is a URL."""
    return name if is_remote(name) else f"{base.rstrip('/')}/{name}"


class Files:
    """Open shard files of one process, closed in the order of last use when there are too many.

    Reads carry their own position, so a forked worker may inherit open files; a pickled copy starts with none.
    """

    def __init__(self, cache: Cache | None = None, limit: int = MAX_OPEN_FILES) -> None:
        self.cache = cache or Cache()
        self.limit = limit
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "limit": self.limit, "_open": OrderedDict()}

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def read(self, path: str, offset: int, size: int, expected: tuple[int, str]) -> bytes:
        """Return `size` bytes at `offset`; short where the file ends early. `expected` is a shard's (bytes, sha256).

        Raises OSError when the file is missing, or remote and out of reach.
        """
        handle = self._open.get(path)
        if handle is None:
            local = self.cache.fetch(path, *expected) if is_remote(path) else Path(path)
            handle = os.open(local, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
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

    def prefetch(self, places: list[tuple[str, int, str]]) -> None:
        """Start to copy remote files (path, bytes, sha256) in the background."""
        threading.Thread(target=_fetch, args=(self.cache, places), daemon=True).start()


def _fetch(cache: Cache, places: list[tuple[str, int, str]]) -> None:
    for path, size, sha256 in places:
        if is_remote(path):
            with contextlib.suppress(OSError):  # whoever needs the file will try again, and complain
                cache.fetch(path, size, sha256)
