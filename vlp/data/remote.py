"""Local copies of remote shards: fetched in pieces through fsspec, tried again, checked, bounded.

A whole shard is copied when its first sample is wanted: all of its samples are read within one window, and one large
read beats thousands of small ones on any object store. Workers and ranks of one machine share the copies.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

PIECE = 8 << 20
ATTEMPTS = 6


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made when missing as its folder is, against other processes; they wait. A killed one lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def default_folder() -> Path:
    """Return `$VLP_CACHE`, or `vlp` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("VLP_CACHE") or f"{home}/vlp")


class Cache:
    """A folder of fetched files, at most `limit` bytes of them: those used longest ago are deleted first.

    A file that another process still has open stays readable to it after it was deleted here.
    """

    def __init__(self, folder: Path | None = None, limit: int = 64 << 30, pause: float = 0.5) -> None:
        self.folder = folder or default_folder()
        self.limit = limit
        self.pause = pause

    def path(self, url: str) -> Path:
        name = url.rstrip("/").rpartition("/")[2]
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[-100:]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{safe}"

    def fetch(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """Return the local copy of `url`, fetched when it is not there; checked against size and sha256 where given.

        Raises OSError after the last attempt.
        """
        path = self.path(url)
        if self._is_good(path, size):
            os.utime(path)
            return path
        with locked(path.with_name(path.name + ".lock")):  # one process fetches, the others wait for it
            if not self._is_good(path, size):
                self._make_room(size or 0, keep=path)
                self._download(url, path, size, sha256)
        return path

    def fetch_fresh(self, url: str) -> Path:
        """Return a new copy of `url`, for what may have changed since the last one (manifests).

        Its name holds its hash, so that a run keeps the one that it started with; it does not count for the limit.
        """
        path = self.path(url)
        with locked(path.with_name(path.name + ".lock")):
            self._download(url, path, None, None)
            final = self.folder / "manifests" / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}-{path.name}"
            final.parent.mkdir(exist_ok=True)
            path.replace(final)
        return final

    def _is_good(self, path: Path, size: int | None) -> bool:
        return path.is_file() and size in (None, path.stat().st_size)

    def _download(self, url: str, path: Path, size: int | None, sha256: str | None) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        failure: Exception | None = None
        attempt = 0
        while attempt < ATTEMPTS:
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), 30.0))
            before = _size(partial)
            try:
                _copy(url, partial, size)
                _check(url, partial, size, sha256)
            except Exception as error:  # every file system raises its own kinds
                if isinstance(error, (FileNotFoundError, PermissionError, ImportError)):
                    raise OSError(f"cannot fetch {url}: {error}") from error
                failure = error
                attempt = 1 if _size(partial) > before else attempt + 1  # a slow way forward is a way forward
                log.warning("fetching %s, attempt %d of %d: %s", url, attempt, ATTEMPTS, error or type(error).__name__)
                continue
            partial.replace(path)
            return
        partial.unlink(missing_ok=True)
        raise OSError(f"cannot fetch {url} after {ATTEMPTS} attempts: {failure!r}") from failure

    def _make_room(self, size: int, keep: Path) -> None:
        files = [one for one in self.folder.iterdir() if one.is_file() and one.suffix not in (".lock", ".partial")]
        sizes = {one: one.stat() for one in files if one != keep}
        total = sum(one.st_size for one in sizes.values())
        for one in sorted(sizes, key=lambda file: sizes[file].st_mtime):
            if total + size <= self.limit:
                return
            one.unlink(missing_ok=True)
            total -= sizes[one].st_size


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _copy(url: str, partial: Path, size: int | None) -> None:
    """Append to `partial` what it still lacks of `url`, piece by piece, so that a lost connection costs one piece."""
    import fsspec

    system, name = fsspec.core.url_to_fs(url, skip_instance_cache=True, **_options(url))
    total = size if size is not None else system.size(name)
    with open(partial, "ab") as file:
        if total is None:
            file.truncate(0)
            file.write(system.cat_file(name))
            return
        while file.tell() < total:
            start = file.tell()
            piece = system.cat_file(name, start=start, end=min(start + PIECE, total))
            if len(piece) != min(PIECE, total - start):
                # a server without ranges sends everything; anything else was cut short
                file.truncate(0)
                if len(piece) == total:
                    file.seek(0)
                    file.write(piece)
                    return
                raise OSError(f"asked for bytes {start} to {min(start + PIECE, total)}, got {len(piece)} bytes")
            file.write(piece)


def _options(url: str) -> dict[str, object]:
    if url.startswith(("http://", "https://")):
        import aiohttp  # fsspec reads http through it

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=120, sock_connect=20, sock_read=30)}}
    return {}


def _check(url: str, path: Path, size: int | None, sha256: str | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise OSError(f"{url} has {found} bytes, the manifest says {size}")
    if sha256:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            path.unlink()
            raise OSError(f"{url} has sha256 {digest[:12]}..., the manifest says {sha256[:12]}...")
