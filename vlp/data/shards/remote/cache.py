"""Local copies of remote shards: fetched in pieces, tried again, checked, bounded.

A whole shard is copied when its first sample is wanted: all of its samples are read within one window, and one large
read beats thousands of small ones on any object store. Workers and ranks of one machine share the copies. A copy is used
where its sha256 is the manifest's: it was hashed when it came, and is again when its size or time of change is another.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from vlp.core.errors import cannot_write
from vlp.core.output import locked
from vlp.core.untrusted import RefusedError, open_regular, replacing

from .download import copy
from .urls import allowed_hosts, host_of

log = logging.getLogger(__name__)

PIECE = 8 << 20
ATTEMPTS = 6
MAX_MANIFEST = 4 << 30

_OURS = re.compile(r"[0-9a-f]{16}-")


def default_folder() -> Path:
    """Return `$VLP_CACHE`, or `vlp` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("VLP_CACHE") or f"{home}/vlp")


class Cache:
    """A folder of fetched files, at most `limit` bytes of them: those used longest ago are deleted first.

    A file that another process still has open stays readable to it after it was deleted here. `hosts` may be asked beside
    the one of the URL that the user named: those of $VLP_HOSTS where None.
    """

    def __init__(
        self,
        folder: Path | None = None,
        limit: int = 64 << 30,
        pause: float = 0.5,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.folder = folder or default_folder()
        self.limit = limit
        self.pause = pause
        self.hosts = allowed_hosts() if hosts is None else frozenset(map(host_of, hosts))

    def path(self, url: str) -> Path:
        name = url.rstrip("/").rpartition("/")[2]
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[-100:]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{safe}"

    def fetch(self, url: str, size: int, sha256: str) -> Path:
        """Return the local copy of `url`, fetched when it is not there or not what the manifest says.

        Raises OSError after the last attempt, and for a file that is larger than the whole cache.
        """
        hosts = self._hosts_for(url)
        if size > self.limit:
            raise OSError(f"cannot fetch {url}: its {size} bytes are more than the {self.limit} of the cache")
        path = self.path(url)
        if not self._is_good(path, size, sha256):
            with locked(path.with_name(path.name + ".lock")):  # one process fetches, the others wait for it
                if not self._is_good(path, size, sha256):
                    self._make_room(size, keep=path)
                    self._download(url, path, size, sha256, hosts)
                    _stamp(path, sha256)
        with suppress(OSError):  # a cache that another user owns is read as well
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path

    def fetch_fresh(self, url: str) -> Path:
        """Return a new copy of `url`, for what may have changed since the last one (manifests).

        Its name holds its hash, so that a run keeps the one that it started with; it does not count for the limit.
        """
        hosts, path = self._hosts_for(url), self.path(url)
        with locked(path.with_name(path.name + ".lock")):
            digest = self._download(url, path, None, None, hosts)
            final = self.folder / "manifests" / f"{digest[:16]}-{path.name}"
            final.parent.mkdir(exist_ok=True)
            path.replace(final)
        return final

    def _hosts_for(self, url: str) -> frozenset[str]:
        """Return which hosts may be asked on the way to `url`."""
        try:
            return self.hosts | {host_of(url)}
        except RefusedError as error:
            raise OSError(f"cannot fetch {url}: {error}") from None

    def _is_good(self, path: Path, size: int, sha256: str) -> bool:
        try:
            if path.stat().st_size != size:
                return False
            if _stamped(path) == sha256:
                return True
            with open_regular(path) as file:
                good = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False
        if good:
            with suppress(OSError):
                _stamp(path, sha256)
        return good

    def _download(self, url: str, path: Path, size: int | None, sha256: str | None, hosts: frozenset[str]) -> str:
        """Fetch `url` to `path`, trying again, and return its sha256. The lock of `path` is held."""
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        try:
            with open(partial, "x+b") as file:  # exclusive: follows no link that was planted there
                digest = self._attempts(url, file, size, sha256, hosts)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return digest

    def _attempts(self, url: str, file: BinaryIO, size: int | None, sha256: str | None, hosts: frozenset[str]) -> str:
        failure: Exception | None = None
        attempt = 0
        while attempt < ATTEMPTS:
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), 30.0))
            before = file.seek(0, os.SEEK_END)
            try:
                copy(url, file, size, PIECE, hosts, MAX_MANIFEST if size is None else size)
                return _check(url, file, size, sha256)
            except (FileNotFoundError, PermissionError, ImportError, RefusedError) as error:
                raise OSError(f"cannot fetch {url}: {error}") from error
            except Exception as error:  # every file system raises its own kinds
                if cannot_write(error):
                    raise OSError(f"cannot fetch {url} to {self.folder}: {error}") from error
                failure = error
                after = file.seek(0, os.SEEK_END)
                attempt = 1 if after > before else attempt + 1  # a slow way forward is a way forward
                log.warning("fetching %s, attempt %d of %d: %s", url, attempt, ATTEMPTS, error or type(error).__name__)
        raise OSError(f"cannot fetch {url} after {ATTEMPTS} attempts: {failure!r}") from failure

    def _make_room(self, size: int, keep: Path) -> None:
        """Delete copies, and nothing else that lies in the folder, until `size` more bytes fit."""
        endings = (".lock", ".partial", ".sha256")
        files = [file for file in self.folder.iterdir() if _OURS.match(file.name) and file.suffix not in endings]
        sizes = {file: file.lstat() for file in files if file != keep and file.is_file()}
        total = sum(size.st_size for size in sizes.values())
        for oldest in sorted(sizes, key=lambda file: sizes[file].st_atime):
            if total + size <= self.limit:
                return
            oldest.unlink(missing_ok=True)
            _stamp_of(oldest).unlink(missing_ok=True)
            total -= sizes[oldest].st_size


def _stamp_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _stamp(path: Path, sha256: str) -> None:
    """Note that a file as it is now has this hash."""
    status = path.stat()
    with replacing(_stamp_of(path)) as file:
        file.write(f"{sha256} {status.st_size} {status.st_mtime_ns} {status.st_ino}".encode())


def _stamped(path: Path) -> str | None:
    """Return the hash that was noted of a file, None where it has been changed since."""
    status = path.stat()
    try:
        with open_regular(_stamp_of(path)) as file:
            sha256, *about = file.read(256).decode("ascii", "replace").split()
    except (OSError, ValueError):
        return None
    return sha256 if about == [str(status.st_size), str(status.st_mtime_ns), str(status.st_ino)] else None


def _check(url: str, file: BinaryIO, size: int | None, sha256: str | None) -> str:
    found = file.seek(0, os.SEEK_END)
    if size is not None and found != size:
        file.truncate(0)
        raise OSError(f"{url} has {found} bytes, the manifest says {size}")
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if sha256 is not None and digest != sha256:
        file.truncate(0)
        raise OSError(f"{url} has sha256 {digest[:12]}..., the manifest says {sha256[:12]}...")
    return digest
