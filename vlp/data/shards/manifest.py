"""What there is: the manifest of a set of shards, and random access to its samples. No torch.

`manifest.jsonl` holds one line per shard: where the members of each of its samples lie. The line's header comes first and
its long columns last, so that a set of many shards is opened by reading headers only. The columns of a shard are parsed
when one of its samples is wanted and a bounded number of them is kept, so memory does not grow with the set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.registry import did_you_mean
from vlp.core.untrusted import RefusedError, is_relative_name, open_regular, parse_object, replacing, shown
from vlp.sample import Sample

from .remote.cache import Cache
from .remote.urls import check_host, host_of, is_remote, join
from .tar_index import Entry, ManifestError

FILE = "manifest.jsonl"
MAX_PARSED = 64
MAX_LINE = 64 << 20
MAX_BYTES = 1 << 50
MAX_MEMBER = 1 << 30
"""The most bytes of a member: it is read into memory whole."""
MAX_WORD = 1000
MOST_OF_A_LINE = 16
"""How many times as large as a manifest line its keys may become in memory."""
LEAST_OF_A_SAMPLE = 4
"""The fewest characters that a sample takes in its manifest line."""

_HEADER = ("shard", "split", "samples", "texts", "bytes", "sha256", "source", "version")
_START, _COLUMNS = b'{"shard": ', b', "keys": ['
_AGAIN = "run `vlp-prep index` on the folder"
_SHA256 = re.compile(r"[0-9a-f]{64}")


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


class Manifest:
    """The shards of a set, in order. `len()` counts samples; `digest` changes when any content or its order does."""

    def __init__(self, base: str, path: Path, shards: Sequence[Shard], lines: np.ndarray) -> None:
        self.base = base
        self.path = path
        self.shards = tuple(shards)
        self._lines = lines  # [S, 2] position and length of each shard's line in the file
        self._parsed: OrderedDict[int, Columns] = OrderedDict()
        self.start = np.concatenate([[0], np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)])

    @classmethod
    def read(cls, place: Path | str, cache: Cache | None = None) -> Manifest:
        """Read the manifest of a folder, a `manifest.jsonl` file, or the URL of either. Raises ManifestError."""
        text, cache = str(place), cache or Cache()
        hosts = cache.hosts
        if is_remote(text):
            url = text if text.endswith(".jsonl") else join(text, FILE)
            try:
                path = cache.fetch_fresh(url)
            except OSError as error:
                raise ManifestError(str(error)) from None
            base = url.rpartition("/")[0]
            hosts |= {host_of(url)}
        else:
            path = Path(text) / FILE if Path(text).is_dir() else Path(text)
            base = str(path.parent)
            if not path.exists():
                raise ManifestError(_missing(path))
        try:
            shards, lines = _read_headers(path, hosts)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read: {error.strerror or error}") from None
        if not shards:
            raise ManifestError(f"{path} lists no shards")
        if len({shard.shard for shard in shards}) < len(shards):
            raise ManifestError(f"{path} lists a shard twice")
        return cls(base, path, shards, np.array(lines, dtype=np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        return int(self.start[-1])

    def __repr__(self) -> str:
        return f"Manifest({self.base}: {len(self.shards)} shards, {len(self)} samples)"

    @property
    def digest(self) -> str:
        """A sha256 of the shards' hashes, counts and order; wherever they lie and whatever they are called."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.samples} {shard.bytes} {shard.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return sorted({shard.split for shard in self.shards if shard.split})

    @property
    def texts(self) -> int:
        """How many samples have a text."""
        counts = (
            int((self.chars(number) > 0).sum()) if shard.texts is None else min(shard.texts, shard.samples)
            for number, shard in enumerate(self.shards)
        )
        return sum(counts)

    def select(self, split: str | None) -> Manifest:
        """Return the part of a split, everything for None. Raises ManifestError naming the splits that there are.

        A set in which no shard names a split is all "train".
        """
        if split is None or (split == "train" and not self.splits):
            return self
        chosen = [index for index, shard in enumerate(self.shards) if shard.split == split]
        if not chosen:
            if not self.splits:
                raise ManifestError(f"{self.path}: no split {split!r}: the set is not split (split: null reads it all)")
            raise ManifestError(f"{self.path}: no split {split!r}{did_you_mean(split, self.splits)}")
        part = Manifest(self.base, self.path, [self.shards[index] for index in chosen], self._lines[chosen])
        if len(part) == 0:
            raise ManifestError(f"{self.path}: split {split!r} is empty")
        return part

    def columns(self, shard: int) -> Columns:
        """Return the columns of a shard, parsed when needed."""
        found = self._parsed.get(shard)
        if found is None:
            position, length = self._lines[shard]
            with open_regular(self.path) as file:
                file.seek(int(position))
                line = file.read(int(length))
            where = f"{self.path}: {self.shards[shard].shard}"
            if parse_header(line, where) != self.shards[shard]:
                raise ManifestError(f"{where}: the manifest was changed while it was in use; start again")
            found = self._parsed[shard] = parse_columns(line, where)
            while len(self._parsed) > MAX_PARSED:
                self._parsed.popitem(last=False)
        else:
            self._parsed.move_to_end(shard)
        return found

    def locate(self, index: int) -> tuple[int, int]:
        """Return (shard, row) of sample `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self.start, index, side="right")) - 1
        return shard, index - int(self.start[shard])

    def key(self, index: int) -> str:
        shard, row = self.locate(index)
        return self.columns(shard).key(row)

    def chars(self, shard: int) -> np.ndarray:
        """Return the report lengths of a shard's samples in characters, int32 [n]."""
        return self.columns(shard).chars


def _read_headers(path: Path, hosts: Collection[str]) -> tuple[list[Shard], list[tuple[int, int]]]:
    """Return the shards of a manifest file, and the position and length of each one's line. Raises OSError too."""
    shards, lines = [], []
    position = 0
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > MAX_LINE:
                raise ManifestError(f"{where}: a line of more than {MAX_LINE} bytes")
            if line.strip():
                shards.append(parse_header(line, where))
                lines.append((position, len(line)))
                if is_remote(shards[-1].shard):
                    try:
                        check_host(shards[-1].shard, hosts)
                    except RefusedError as error:
                        raise ManifestError(f"{where}: shard {error}") from None
            position += len(line)
    return shards, lines


def _missing(path: Path) -> str:
    folder = path.parent if path.name == FILE else path
    if not folder.is_dir():
        near = did_you_mean(folder.name, [sibling.name for sibling in folder.parent.glob("*")])
        return f"no such folder: {folder}{near if 'mean' in near else ''}"
    if any(folder.glob("*.tar")):
        return f"no {FILE} in {folder}: run `vlp-prep index {folder}` once"
    return f"no {FILE} and no *.tar in {folder}: expected a folder of shards"


def write_manifest(folder: Path, lines: Sequence[str]) -> None:
    """Write `manifest.jsonl` into a folder, whole or not at all."""
    with replacing(folder / FILE) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def format_line(shard: Shard, entries: Sequence[Entry]) -> str:
    """Return the manifest line of a shard, without its line end; header first, columns last."""
    header = {name: getattr(shard, name) for name in _HEADER}
    header["texts"] = sum(entry.chars > 0 for entry in entries)
    members = {}
    for name in sorted({name for entry in entries for name in entry.members}):
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
    record = parse_object(line[:cut] + b"}" if cut > 0 and line.startswith(_START) else line, where, ManifestError)
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
        raise _wrong_field(record, name, f"at most {MAX_WORD} printable characters", where)
    return value


def _count(record: dict[str, Any], name: str, most: int, where: str) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise _wrong_field(record, name, f"a whole number of 0 to {most}", where)
    return value


def _wrong_field(record: dict[str, Any], name: str, expected: str, where: str) -> ManifestError:
    """Return the error of a field, with what is there instead: a number itself, of all else the type."""
    value = record.get(name)
    found = f"a value of type {type(value).__name__}" if name in record else "nothing"
    if isinstance(value, str):
        found = f"{len(value)} characters"
    elif type(value) in (int, float):
        found = shown(str(value), 24)
    return ManifestError(f"{where}: not a shard's line: {name}: expected {expected}, found {found}: {_AGAIN}")


def parse_columns(line: bytes, where: str) -> Columns:
    """Return the columns of a manifest line. Raises ManifestError.

    Every claim is checked against the others and the header before anything is allocated: a line of some kilobytes must
    not ask for gigabytes, nor for bytes that lie outside of its shard.
    """
    record = parse_object(line, where, ManifestError)
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
        raise ManifestError(f"{where}: broken columns: expected {rows} whole numbers: {_AGAIN}")
    if rows and not (low <= min(values) and max(values) <= high):
        raise ManifestError(f"{where}: broken columns: expected numbers of {low} to {high}")
    return np.array(values, dtype=np.int64)


def text_length(sample: Sample) -> int:
    """Return the length of what a sample says, in characters; 0 where it has no text."""
    report = len(sample.report.text) if sample.report and sample.report.text.strip() else 0
    return report or max((len(caption) for caption in sample.captions if caption.strip()), default=0)
