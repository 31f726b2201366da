"""The index of a tar shard: where each sample's members lie, as one line of `manifest.jsonl`. A leaf; no torch.

A sample is the members that share what precedes the first dot of their file name (webdataset's rule), adjacent or not;
what follows that dot is the member's extension. The line's header comes first and its long columns last, so that a set
of many shards is opened by reading headers only.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ConfigError
from ..types import Sample
from .members import images

log = logging.getLogger(__name__)

FILE = "manifest.jsonl"
FORMAT = "vlp-1"
"""Marks a `json` member written by `ShardWriter`; anybody else's is read by the names of its fields."""

_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
_START, _COLUMNS = b'{"shard": ', b', "keys": ['
_MAX_EXTENSIONS = 64


class ManifestError(ConfigError):
    """A manifest or a shard is not what it should be; the message names the file, and the key where there is one."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The header of a manifest line: a shard's file name (or URL), split, counts, hash and origin.

    `texts` counts the samples that have a text; None in manifests of before it was counted.
    """

    shard: str
    samples: int
    bytes: int
    sha256: str
    split: str | None = None
    source: str = ""
    version: str = ""
    texts: int | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the n samples of one shard lie, as compact arrays.

    `keys` [n] bytes; `chars` [n] int32, length of the report; `crc32` [n] uint32 over a sample's member bytes in the
    order of the tar; `offset` [n, E] int64 and `size` [n, E] uint32 for the E `extensions`, offset -1 where the sample
    lacks that member.
    """

    keys: np.ndarray
    chars: np.ndarray
    crc32: np.ndarray
    extensions: tuple[str, ...]
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return bytes(self.keys[row]).decode()

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Return {extension: (offset, size)} of one sample, in the order of the tar."""
        found = [
            (int(self.offset[row, column]), int(self.size[row, column]), name)
            for column, name in enumerate(self.extensions)
            if self.offset[row, column] >= 0
        ]
        return {name: (offset, size) for offset, size, name in sorted(found)}


@dataclass(slots=True)
class Entry:
    """A sample while its shard is written or indexed: extension -> (data offset, size)."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    chars: int = 0
    crc32: int = 0


def format_line(shard: Shard, entries: Sequence[Entry]) -> str:
    """Return the manifest line of a shard, without its line end; header first, columns last."""
    header = {
        "shard": shard.shard,
        "split": shard.split,
        "samples": shard.samples,
        "texts": sum(entry.chars > 0 for entry in entries),
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "source": shard.source,
        "version": shard.version,
    }
    names = sorted({name for entry in entries for name in entry.members})
    members = {}
    for name in names:
        pairs = [entry.members.get(name, (-1, 0)) for entry in entries]
        members[name] = [[offset for offset, _ in pairs], [size for _, size in pairs]]
    columns = {
        "keys": [entry.key for entry in entries],
        "chars": [entry.chars for entry in entries],
        "crc32": [entry.crc32 for entry in entries],
        "members": members,
    }
    return json.dumps(header, ensure_ascii=False)[:-1] + ", " + json.dumps(columns, ensure_ascii=False)[1:]


def parse_header(line: bytes, where: str) -> Shard:
    """Return the header of a manifest line; `where` names the line in messages. Raises ManifestError."""
    cut = line.find(_COLUMNS)
    record = _json(line[:cut] + b"}" if cut > 0 and line.startswith(_START) else line, where)
    try:
        shard = Shard(
            shard=str(record["shard"]),
            samples=int(record["samples"]),
            bytes=int(record["bytes"]),
            sha256=str(record["sha256"]),
            split=record.get("split"),
            source=str(record.get("source") or ""),
            version=str(record.get("version") or ""),
            texts=None if record.get("texts") is None else int(record["texts"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: not a shard's line ({error!r}): run `vlp-prep index` on the folder") from None
    if not is_safe_name(shard.shard) and "://" not in shard.shard:
        raise ManifestError(f"{where}: unsafe shard name {shard.shard!r}: expected a path below the manifest's folder")
    return shard


def parse_columns(line: bytes, where: str) -> Columns:
    """Return the columns of a manifest line. Raises ManifestError."""
    record = _json(line, where)
    try:
        names = tuple(record["members"])
        rows = len(record["keys"])
        offset = np.full((rows, len(names)), -1, dtype=np.int64)
        size = np.zeros((rows, len(names)), dtype=np.uint32)
        for column, name in enumerate(names):
            offset[:, column], size[:, column] = record["members"][name]
        columns = Columns(
            keys=np.array([str(key).encode() for key in record["keys"]], dtype=np.bytes_),
            chars=np.array(record.get("chars") or [0] * rows, dtype=np.int32),
            crc32=np.array(record.get("crc32") or [0] * rows, dtype=np.uint32),
            extensions=names,
            offset=offset,
            size=size,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"{where}: broken columns ({error}): run `vlp-prep index` on the folder") from None
    if not rows == int(record["samples"]) == len(columns.chars) == len(columns.crc32):
        raise ManifestError(f"{where}: says {record['samples']} samples and lists {rows}")
    return columns


def _json(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ManifestError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object")
    return record


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
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else the whole list is kept
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
    except tarfile.TarError as error:
        raise ManifestError(f"{path}: not a complete, uncompressed tar file ({error})") from None
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from None
    yield from entries.values()
    for reason, count in passed.items():
        log.warning("%s: passed over %d members (%s)", path, count, reason)


def image_extension(members: Iterable[str], key: str = "") -> str | None:
    """Return which extension holds the image, None for none; masks are none. Raises ManifestError where several may."""
    names = images(members)
    if len(names) > 1:
        raise ManifestError(
            f"key {key!r} has several images: {', '.join(names)}. Choose one for the whole set: vlp-prep index FOLDER "
            f"--image {names[0]}. (Or are these several samples? Everything after the first dot of a file name is the "
            "member's name, so keys must not hold dots: rename 1.2.jpg to 1_2.jpg)"
        )
    return names[0] if names else None


def mask_names(members: Mapping[str, Any]) -> dict[str, str]:
    """Return {mask name: extension} of the `{name}.mask.png` members."""
    return {decode_name(name.removesuffix(".mask.png")): name for name in members if name.endswith(".mask.png")}


def encode_name(key: str) -> str:
    """Return a member name for any key: dots and unusual characters percent-encoded, so that it splits where it should."""
    from urllib.parse import quote

    name = quote(key, safe="/_-+=@,~").replace(".", "%2E")
    return "%2F" + name[1:] if name.startswith("/") else name


def decode_name(name: str) -> str:
    """Return the key that `encode_name` made a member name of."""
    from urllib.parse import unquote

    return unquote(name)


def write_manifest(folder: Path, lines: Sequence[str]) -> None:
    """Write `manifest.jsonl` into a folder, whole or not at all."""
    temporary = folder / f".{FILE}.partial"
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    temporary.replace(folder / FILE)


def chain_crc32(parts: Iterable[bytes]) -> int:
    """Return the crc32 of byte strings one after another."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def text_length(sample: Sample) -> int:
    """Return the length of what a sample says, in characters; 0 where it has no text."""
    report = len(sample.report.text) if sample.report and sample.report.text.strip() else 0
    return report or max((len(one) for one in sample.captions if one.strip()), default=0)
