"""The members of a tar shard: which samples there are, and where their members lie. A leaf; no torch.

A sample is the members that share what precedes the first dot of their file name (webdataset's rule), adjacent or not;
what follows that dot is the member's extension.
"""

from __future__ import annotations

import logging
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote

from vlp.core.config import ConfigError
from vlp.core.untrusted import open_regular

log = logging.getLogger(__name__)

FORMAT = "vlp-1"
"""Marks a `json` member written by `ShardWriter`; another tool's is read by the names of its fields."""

_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
_MAX_EXTENSIONS = 64
_MAX_HEADER = 1 << 20


class ManifestError(ConfigError):
    """A manifest or a shard is not what it should be; the message names the file, and the key where there is one."""


@dataclass(slots=True)
class Entry:
    """A sample while its shard is written or indexed: extension -> (data offset, size)."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    chars: int = 0
    crc32: int = 0


def checksum(members: Iterable[bytes]) -> int:
    """Return the CRC-32 of a sample's members one after another, as its `Entry` has it; none is copied for it."""
    return reduce(lambda crc, member: zlib.crc32(member, crc), members, 0)


def is_safe_name(name: str) -> bool:
    """Return whether a member's name stays below where the tar would be unpacked."""
    return bool(name) and not name.startswith("/") and "\\" not in name and ".." not in name.split("/")


def split_name(name: str) -> tuple[str, str] | None:
    """Return (key, extension) of a member's name as webdataset splits it, None for names without an extension."""
    match = _NAME.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def scan_tar(path: Path) -> Iterator[Entry]:
    """Yield the samples of a tar file, in the order of their first members, reading headers only. Raises ManifestError.

    Members other than regular files are passed over and counted in the log; a name that climbs out is an error.
    """
    passed: dict[str, int] = {}
    entries: dict[str, Entry] = {}
    end = 0
    try:
        with open_regular(path) as file, tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else the whole list is kept
                if not end <= member.offset <= member.offset_data or member.size < 0:
                    raise ManifestError(f"{path}: a header of the tar leads back or has a negative size")
                end = member.offset + 1
                if not is_safe_name(member.name):
                    raise ManifestError(f"{path}: member {member.name!r} climbs out of the archive: refused")
                if not member.isreg() or member.issparse():
                    if not member.isdir():
                        passed["not a regular file"] = passed.get("not a regular file", 0) + 1
                    continue
                parts = split_name(member.name)
                if parts is None or re.match(r"__[^/]*__($|/)", member.name):
                    passed["no extension"] = passed.get("no extension", 0) + 1
                    continue
                key, extension = parts
                entry = entries.setdefault(key, Entry(key))
                if extension in entry.members:
                    raise ManifestError(
                        f"{path}: two members {extension!r} of key {key!r}; everything after the first dot of a file "
                        "name is its extension, so keys must be unique and hold no dots"
                    )
                if len(entry.members) >= _MAX_EXTENSIONS:
                    raise ManifestError(
                        f"{path}: key {key!r} has over {_MAX_EXTENSIONS} members: is there a dot in it?"
                    )
                entry.members[extension] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path}: not a complete, uncompressed tar file ({error})") from None
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from None
    yield from entries.values()
    for reason, count in passed.items():
        log.warning("%s: passed over %d members (%s)", path, count, reason)


class _Headers:
    """A tar file of which headers are read: long names and extended headers included, which state their own size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def encode_name(key: str) -> str:
    """Return a member name for any key: dots and unusual characters percent-encoded, so that it splits where it should."""
    name = quote(key, safe="/_-+=@,~").replace(".", "%2E")
    return "%2F" + name[1:] if name.startswith("/") else name


def decode_name(name: str) -> str:
    """Return the key that `encode_name` made a member name of."""
    return unquote(name)
