"""Names, files and JSON that others wrote: what is checked before any of it is used. A leaf; see SECURITY.md.

`inside` is the one way from a name to a path, `open_regular` and `read_regular` from a path to bytes, `parse_json` to JSON.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from .errors import ConfigError

MIB = 1 << 20
MAX_TEXT = 64 * MIB
"""The most bytes of a text file (a recipe, a table of prompts, JSON) that are read into memory."""
MAX_FILE = 2048 * MIB
"""The most bytes of any file that is read into memory at once (an image, a volume)."""
MAX_TOKENIZER = 256 * MIB
"""The most bytes of a tokenizer's file; those of large multilingual ones have some 40 million."""
READ_WHOLE = (".json", ".txt", ".model", ".gz", ".jinja", ".py")
"""Endings of the files of model folders that libraries read into memory at once, whatever their size."""
MAX_RATIO = 100
MAX_NAME = 1024

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a directory"),
)


class RefusedError(ConfigError):
    """Something in the data of others that is not followed; the message says what, and what is allowed."""


def is_relative_name(name: str) -> bool:
    """Return whether a name leads to a place below a folder, on every system, whatever lies there.

    No URL, absolute path, drive, `..`, backslash or control character, and nothing that a file system cannot hold.
    """
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or "\\" in name or "::" in name or "://" in name:
        return False
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and ":" not in parts[0]


def inside(folder: Path, name: str, *, follow_links: bool = False) -> Path:
    """Return the path of a file that a manifest, a table or a repository names, below `folder`.

    Raises RefusedError for an absolute path, `..`, a URL and the like, and for a link that leads out of the folder unless
    `follow_links`. Links of a Hub cache lead from its `snapshots/REVISION` to its `blobs` and are followed. The file need
    not be there.
    """
    if not is_relative_name(name):
        raise RefusedError(f"{shown(name)} is refused: expected a relative path below {folder}")
    path = folder / name
    if not follow_links and not stays_inside(folder, path):
        raise RefusedError(f"{shown(name)} is refused: it is a link that leads out of {folder}")
    return path


def stays_inside(folder: Path, path: Path) -> bool:
    """Return whether `path`, every link followed, lies below `folder` or in the blobs of the Hub cache that holds it."""
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return True
    caches = [place.parent for place in (root, *root.parents) if place.name == "snapshots"]
    return any(real.is_relative_to(place / "blobs") for place in caches)


def shown(name: str, limit: int = 80) -> str:
    """Return a foreign name as a message may hold it: quoted, escaped, and cut."""
    return repr(name if len(name) <= limit else f"{name[:limit]}...").encode("ascii", "backslashreplace").decode()


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file for reading bytes; raises OSError, its `strerror` in words, for all but regular files. Never waits."""
    return open(open_descriptor(path), "rb")


def open_descriptor(path: Path | str) -> int:
    """Do what `open_regular` does, for positioned reads: return the descriptor, which the caller closes."""
    _check_kind(os.stat(path), path)  # before it is opened: to open a device may already do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_kind(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path | str, limit: int = MAX_FILE) -> bytes:
    """Return the bytes of a regular file; raises OSError, also where there are more than `limit` of them."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _too_large(path, limit)
    return data


def read_text(path: Path | str, limit: int = MAX_TEXT) -> str:
    """Return a UTF-8 file, with or without a byte order mark; raises OSError and UnicodeDecodeError."""
    return read_regular(path, limit).decode("utf-8-sig")


def read_json(path: Path | str, limit: int = MAX_TEXT) -> Any:
    """Return the JSON in a file; raises OSError, and ValueError for what is not JSON (see `parse_json`)."""
    return parse_json(read_regular(path, limit))


def check_files(folder: Path) -> None:
    """Raise OSError for what a library would wait for or fill the memory with: FIFOs, devices, large files but weights."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() or not path.exists():
            continue
        status = os.stat(path)
        _check_kind(status, path)
        if status.st_size > MAX_TOKENIZER and path.suffix in READ_WHOLE:
            raise _too_large(path, MAX_TOKENIZER)


def parse_json(data: bytes | str) -> Any:
    """Return JSON as Python values: UTF-8, finite numbers, whole characters, at most some 200 levels deep.

    Raises ValueError, its message the place and no content.
    """
    from pydantic_core import from_json

    if isinstance(data, bytes):
        data = data.removeprefix(b"\xef\xbb\xbf")
    return from_json(data, allow_inf_nan=False)


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dictionary (`object_pairs_hook`); raises ValueError for a key given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)[:40]!r} is given twice")
    return found


def parse_object(data: bytes | str, where: str, kind: type[ConfigError] = ConfigError) -> dict[str, Any]:
    """Return the JSON object in a text that messages call `where`; raises `kind` for anything else."""
    try:
        tree = parse_json(data)
    except ValueError as error:
        raise kind(f"{where}: not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise kind(f"{where}: expected a JSON object, found {type(tree).__name__}")
    return tree


def read_object(path: Path, limit: int = 16 * MIB) -> dict[str, Any]:
    """Return the JSON object in a file, by default a configuration's; raises ConfigError for anything else."""
    try:
        data = read_regular(path, limit)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return parse_object(data, f"cannot read {path}")


def open_gzip(path: Path | str, limit: int | None = None) -> IO[bytes]:
    """Open a gzipped file for reading; raises OSError once more than `limit` bytes came out of it.

    Without a limit it is MAX_RATIO times the size of the file: text is packed tenfold, a bomb a thousandfold.
    """
    if limit is None:
        limit = max(256 * MIB, MAX_RATIO * os.stat(path).st_size)
    return io.BufferedReader(_Unpacked(open_regular(path), path, limit))


class _Unpacked(gzip.GzipFile):
    """What comes out of a gzipped file, up to a limit."""

    def __init__(self, packed: BinaryIO, path: Path | str, limit: int) -> None:
        super().__init__(fileobj=packed)
        self.myfileobj = cast(Any, packed)  # which is closed with this one
        self._path, self._limit = path, limit

    def read(self, size: int | None = -1) -> bytes:
        room = self._limit - self.tell() + 1
        data = super().read(room if size is None or size < 0 else min(size, room))
        if len(data) == room:
            raise _too_large(self._path, self._limit, " unpacked")
        return data


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file whole or not at all: a new file beside it, under a name that could not be guessed, takes its place.

    A link planted at a name that we write to would lead us to overwrite what it points to: the new file is made with
    O_EXCL, which follows no link, and a link at `path` itself is replaced.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _check_kind(status: os.stat_result, path: Path | str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "no file")
    code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    raise OSError(code, f"is {kind}, expected a regular file", str(path))


def _too_large(path: Path | str, limit: int, how: str = "") -> OSError:
    return OSError(errno.EFBIG, f"has more than {limit} bytes{how}", str(path))
