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
from typing import Any, BinaryIO, cast

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.untrusted import is_relative_name, open_regular, parse_json, replacing, shown
from vlp.sample import Sample

from .foreign.members import images

log = logging.getLogger(__name__)

FILE = "manifest.jsonl"
FORMAT = "vlp-1"
"""Marks a `json` member written by `ShardWriter`; another tool's is read by the names of its fields."""

_NAME = re.compile(r"^((?:.*/|)[^./]+)[.]([^/]*)$")
_START, _COLUMNS = b'{"shard": ', b', "keys": ['
_MAX_EXTENSIONS = 64
_MAX_HEADER = 1 << 20
_AGAIN = "run `vlp-prep index` on the folder"
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 1 << 50
MAX_MEMBER = 1 << 30
"""The most bytes of a member: it is read into memory whole."""
MAX_WORD = 1000
MOST_OF_A_LINE = 16
"""How many times as large as a manifest line its keys may become in memory."""
LEAST_OF_A_SAMPLE = 4
"""The fewest characters that a sample takes in its manifest line."""


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
    samples = _count(record, "samples", len(line) // LEAST_OF_A_SAMPLE, where)
    shard = Shard(
        shard=_word(record, "shard", where),
        samples=samples,
        bytes=_count(record, "bytes", MAX_BYTES, where),
        sha256=_word(record, "sha256", where),
        split=_word(record, "split", where, optional=True) or None,
        source=_word(record, "source", where, optional=True),
        version=_word(record, "version", where, optional=True),
        texts=None if record.get("texts") is None else min(_count(record, "texts", MAX_BYTES, where), samples),
    )
    if "://" not in shard.shard and not is_relative_name(shard.shard):
        raise ManifestError(
            f"{where}: unsafe shard name {shown(shard.shard)}: expected a path below the manifest's folder"
        )
    if not _SHA256.fullmatch(shard.sha256):
        raise ManifestError(f"{where}: sha256: expected 64 hexadecimal digits: {_AGAIN}")
    return shard


def _word(record: dict[str, Any], name: str, where: str, optional: bool = False) -> str:
    value = record.get(name)
    if optional and value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_WORD or not value.isprintable():
        raise ManifestError(
            f"{where}: not a shard's line: {name}: expected at most {MAX_WORD} printable characters, found "
            f"{_found(record, name)}: {_AGAIN}"
        )
    return value


def _count(record: dict[str, Any], name: str, most: int, where: str) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ManifestError(
            f"{where}: not a shard's line: {name}: expected a whole number of 0 to {most}, found "
            f"{_found(record, name)}: {_AGAIN}"
        )
    return value


def _found(record: dict[str, Any], name: str) -> str:
    """Return what is there instead, for a message: a number itself, of all else the type."""
    if name not in record:
        return "nothing"
    value = record[name]
    if isinstance(value, str):
        return f"{len(value)} characters"
    return shown(str(value), 24) if type(value) in (int, float) else f"a value of type {type(value).__name__}"


def parse_columns(line: bytes, where: str) -> Columns:
    """Return the columns of a manifest line. Raises ManifestError.

    Every claim is checked against the others and the header before anything is allocated: a line of some kilobytes must
    not ask for gigabytes, nor for bytes that lie outside of its shard.
    """
    record = _json(line, where)
    header = parse_header(line, where)
    keys, members = record.get("keys"), record.get("members")
    if not isinstance(keys, list) or not isinstance(members, dict) or not all(type(key) is str for key in keys):
        raise ManifestError(f"{where}: broken columns: expected a list of keys and a mapping of members: {_AGAIN}")
    for key in keys:
        if len(key) > MAX_WORD or not key.isprintable():
            raise ManifestError(f"{where}: a key that is not at most {MAX_WORD} printable characters: {_AGAIN}")
    rows, longest = len(keys), max(map(len, keys), default=0)
    if rows * longest > MOST_OF_A_LINE * len(line):  # numpy gives each the room of the longest
        raise ManifestError(f"{where}: broken columns: a key of {longest} characters among {rows}: {_AGAIN}")
    if rows != header.samples:
        raise ManifestError(f"{where}: says {header.samples} samples and lists {rows}")
    offset = np.full((rows, len(members)), -1, dtype=np.int64)
    size = np.zeros((rows, len(members)), dtype=np.uint32)
    for column, (name, pair) in enumerate(members.items()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ManifestError(f"{where}: broken columns: {shown(name)}: expected offsets and sizes: {_AGAIN}")
        offset[:, column] = _integers(pair[0], rows, -1, header.bytes, f"{where}: offsets of {shown(name)}")
        size[:, column] = _integers(pair[1], rows, 0, MAX_MEMBER, f"{where}: sizes of {shown(name)}")
    if (offset + size > header.bytes).any():
        raise ManifestError(
            f"{where}: broken columns: a member ends behind the {header.bytes} bytes of the shard: {_AGAIN}"
        )
    zeros = [0] * rows
    return Columns(
        keys=np.array([key.encode() for key in keys], dtype=np.bytes_),
        chars=_integers(record.get("chars") or zeros, rows, 0, 2**31 - 1, f"{where}: chars").astype(np.int32),
        crc32=_integers(record.get("crc32") or zeros, rows, 0, 2**32 - 1, f"{where}: crc32").astype(np.uint32),
        extensions=tuple(members),
        offset=offset,
        size=size,
    )


def _integers(values: Any, rows: int, low: int, high: int, where: str) -> np.ndarray:
    """Return a column of a manifest [rows] int64, whose values lie in `low` to `high`. Raises ManifestError."""
    if not isinstance(values, list) or len(values) != rows or not all(type(value) is int for value in values):
        raise ManifestError(
            f"{where}: broken columns: expected {rows} whole numbers: run `vlp-prep index` on the folder"
        )
    if rows and not (low <= min(values) and max(values) <= high):
        raise ManifestError(f"{where}: broken columns: expected numbers of {low} to {high}")
    return np.array(values, dtype=np.int64)


def _json(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
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


class _Headers:
    """A tar file of which headers are read: long names and extended headers included, which state their own size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


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
    with replacing(folder / FILE) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def chain_crc32(parts: Iterable[bytes]) -> int:
    """Return the crc32 of byte strings one after another."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def text_length(sample: Sample) -> int:
    """Return the length of what a sample says, in characters; 0 where it has no text."""
    report = len(sample.report.text) if sample.report and sample.report.text.strip() else 0
    return report or max((len(caption) for caption in sample.captions if caption.strip()), default=0)
