"""What there is: the manifest of a set of shards, random access to its samples, indexing and verifying. No torch.

`manifest.jsonl` holds one line per shard (`vlp.data.index`). Opening a set reads the headers; the columns of a shard
are parsed when one of its samples is wanted and a bounded number of them is kept, so memory does not grow with the set.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..registry import did_you_mean
from ..types import Sample
from ..untrusted import RefusedError, open_regular, stays_inside
from .index import (
    FILE,
    MAX_MEMBER,
    Columns,
    ManifestError,
    Shard,
    chain_crc32,
    format_line,
    image_extension,
    parse_columns,
    parse_header,
    scan_tar,
    write_manifest,
)
from .indexing import Choices as Choices
from .indexing import Findings, archives_of, index_shard, nothing_found
from .members import images, is_mask_key
from .records import SampleError, build
from .remote import Cache
from .storage import Files, join
from .urls import check_host, host_of, is_remote

MAX_PARSED = 64
MAX_LINE = 64 << 20
GAP = 64 << 10
SHOWN = 20
"""How many of the samples of a shard that were left out are named."""

log = logging.getLogger(__name__)


class Manifest:
    """The shards of a set, in order. `len()` counts samples; `digest` changes when any content or its order does."""

    def __init__(self, base: str, path: Path, shards: Sequence[Shard], lines: np.ndarray) -> None:
        self.base = base
        self.path = path
        self.shards = tuple(shards)
        self._lines = lines  # [S, 2] position and length of each shard's line in the file
        self._parsed: OrderedDict[int, Columns] = OrderedDict()
        self.start = np.concatenate([[0], np.cumsum([one.samples for one in self.shards], dtype=np.int64)])

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
        names = {one.shard for one in shards}
        if len(names) < len(shards):
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
        for one in self.shards:
            digest.update(f"{one.samples} {one.bytes} {one.sha256}\n".encode())
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return sorted({one.split for one in self.shards if one.split})

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
        chosen = [index for index, one in enumerate(self.shards) if one.split == split]
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
        near = did_you_mean(
            folder.name, [one.name for one in folder.parent.glob("*")] if folder.parent.is_dir() else []
        )
        return f"no such folder: {folder}{near if 'mean' in near else ''}"
    if any(folder.glob("*.tar")):
        return f"no {FILE} in {folder}: run `vlp-prep index {folder}` once"
    return f"no {FILE} and no *.tar in {folder}: expected a folder of shards"


class ShardSet:
    """The samples of a manifest by number. One positioned read per sample whose members are adjacent."""

    def __init__(self, manifest: Manifest, cache: Cache | None = None) -> None:
        self.manifest = manifest
        self.files = Files(cache, folder=None if is_remote(manifest.base) else manifest.base)
        self.is_remote = any(is_remote(join(manifest.base, one.shard)) for one in manifest.shards)
        self._prefetched: list[int] = []

    def __len__(self) -> int:
        return len(self.manifest)

    def key(self, index: int) -> str:
        return self.manifest.key(index)

    def sample(self, index: int, masks: bool = True) -> Sample:
        """Return sample `index`, image and masks as encoded bytes.

        Raises SampleError for a damaged one, ManifestError where it has several images, OSError when its shard is missing
        or out of reach.
        """
        return self._sample(index, lambda name: masks or not name.endswith(".mask.png"))

    def record(self, index: int) -> Sample:
        """Return sample `index` without reading its pixels: `image` is empty bytes and there are no masks."""
        shard, row = self.manifest.locate(index)
        extension = image_extension(self.manifest.columns(shard).members(row)) or ""
        return self._sample(index, lambda name: name != extension and not name.endswith(".mask.png"), {extension: b""})

    def prefetch(self, shards: list[int]) -> None:
        """Start to copy remote shards in the background, so that they are here when their samples are wanted."""
        if shards != self._prefetched:
            self._prefetched = shards
            headers = [self.manifest.shards[one] for one in shards]
            self.files.prefetch([(join(self.manifest.base, one.shard), one.bytes, one.sha256) for one in headers])

    def _sample(self, index: int, wanted: Callable[[str], bool], instead: dict[str, bytes] | None = None) -> Sample:
        shard, row = self.manifest.locate(index)
        columns = self.manifest.columns(shard)
        header = self.manifest.shards[shard]
        members = {name: place for name, place in columns.members(row).items() if wanted(name)}
        data = self._read(shard, members)
        for name, (_, size) in members.items():
            if len(data[name]) != size:
                raise SampleError(f"{header.shard}: key {columns.key(row)!r} lies beyond the end of the file")
        sample = build(columns.key(row), {**data, **(instead or {})}, header.shard)
        return sample if sample.source or not header.source else replace(sample, source=header.source)

    def _read(self, shard: int, members: dict[str, tuple[int, int]]) -> dict[str, bytes]:
        header = self.manifest.shards[shard]
        path = join(self.manifest.base, header.shard)
        expected = (header.bytes, header.sha256)
        if not members:
            return {}
        first = min(offset for offset, _ in members.values())
        last = max(offset + size for offset, size in members.values())
        if last - first > sum(size for _, size in members.values()) + GAP:
            return {name: self.files.read(path, *place, expected) for name, place in members.items()}
        data = self.files.read(path, first, last - first, expected)
        return {name: data[offset - first : offset - first + size] for name, (offset, size) in members.items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a set: in which shard, of which key (None: the shard as a whole), and what."""

    shard: str
    key: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.shard}: {f'key {self.key!r}: ' if self.key is not None else ''}{self.what}"


def index_folder(
    folder: Path | str,
    source: str = "",
    version: str = "",
    progress: Callable[[str], None] | None = None,
    follow_links: bool = False,
    choices: Choices | None = None,
) -> Manifest:
    """Write `manifest.jsonl` for the tar shards of a folder, anybody's webdataset shards included, and return it.

    The split is the one that a shard's path names (`train/0.tar`, `VAL_0.tar`; see `vlp.data.members`) or, where it names
    none, that of all records. Samples without an image or with a broken record are left out and counted through
    `progress`, which is called with one line per shard, then with what else the user has to know; the log says of each
    why. Raises ManifestError for what is not a complete plain tar, for unsafe names, a key used twice, several images,
    splits in doubt, and for a shard that is a link out of the folder unless `follow_links`.
    """
    folder, choices, findings = Path(folder), choices or Choices(), Findings()
    tars = (path for path in folder.rglob("*") if path.suffix.lower() == ".tar")
    paths = sorted(path for path in tars if not _is_hidden(path.relative_to(folder)))
    findings.archives = archives_of(folder)
    if not paths:
        there = f"; what is there is not read: {', '.join(findings.archives[:10])}" if findings.archives else ""
        raise ManifestError(f"no *.tar files in {folder}{there}")
    for path in paths:
        if not follow_links and not stays_inside(folder, path):
            raise ManifestError(f"{path} is a link that leads out of {folder}: refused (--follow-links allows it)")
    seen: dict[str, str] = {}
    lines = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        before, first = sum(findings.left_out.values()), findings.first_left_out
        shard, entries = index_shard(path, name, source, version, choices, findings)
        for entry in entries:
            if entry.key in seen:
                raise ManifestError(
                    f"{path}: key {entry.key!r} is also in {seen[entry.key]}: keys must be unique in a set (a key ends at "
                    "the first dot of a file name, so it must hold none)"
                )
            seen[entry.key] = name
        if entries:
            lines.append(format_line(shard, entries))
        if progress:
            left_out = sum(findings.left_out.values()) - before
            which = f", first {findings.first_left_out}" if not first else ""
            progress(f"{name}: {len(entries)} samples{f', {left_out} left out{which}' if left_out else ''}")
    if not lines:
        raise nothing_found(folder, findings)
    write_manifest(folder, lines)
    if progress:
        for line in findings.lines():
            progress(line)
    return Manifest.read(folder)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def verify(
    place: Path | str, decode: bool = True, progress: Callable[[str], None] | None = None, limit: int = 100
) -> list[Problem]:
    """Check every byte of a set against its manifest and, with `decode`, that every image and mask decodes.

    Returns at most `limit` problems, [] for a sound set; `progress` is called with each shard's name. Raises
    ManifestError when there is no readable manifest.
    """
    manifest = Manifest.read(place)
    problems: list[Problem] = []
    shards = ShardSet(manifest)
    for number, shard in enumerate(manifest.shards):
        if progress:
            progress(shard.shard)
        problems.extend(_verify_shard(shards, number, decode))
        if len(problems) >= limit:
            break
    return problems[:limit]


def _verify_shard(shards: ShardSet, number: int, decode: bool) -> list[Problem]:
    manifest = shards.manifest
    shard = manifest.shards[number]
    try:
        path = shards.files.local(join(manifest.base, shard.shard), (shard.bytes, shard.sha256))
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        columns = manifest.columns(number)
    except OSError as error:
        return [Problem(shard.shard, None, f"cannot be read ({error.strerror or error})")]
    except ManifestError as error:
        return [Problem(shard.shard, None, str(error))]
    problems: list[Problem] = []
    size = path.stat().st_size
    if size != shard.bytes:
        problems.append(Problem(shard.shard, None, f"has {size} bytes, the manifest says {shard.bytes}"))
    for row in range(len(columns)):
        problems.extend(_verify_sample(shards, number, row, decode, unchanged=sha256 == shard.sha256))
    if sha256 != shard.sha256:
        if not problems:
            problems.append(Problem(shard.shard, None, "bytes outside of any sample differ from when it was written"))
    else:
        try:
            found = len(columns) + _not_listed(path, columns)
            if found != len(columns):
                problems.append(Problem(shard.shard, None, f"holds {found} samples, the manifest lists {len(columns)}"))
        except ManifestError as error:
            problems.append(Problem(shard.shard, None, str(error)))
    return problems


def _not_listed(path: Path, columns: Columns) -> int:
    """Return how many samples of a shard the manifest leaves out, though nothing is wrong with them."""
    entries = list(scan_tar(path))
    keys = {entry.key.lower() for entry in entries}
    listed = set(columns.offset.ravel().tolist())
    found = 0
    with open_regular(path) as file:
        for entry in entries:
            is_listed = any(offset in listed for offset, _ in entry.members.values())
            if is_listed or not images(entry.members) or is_mask_key(entry.key, keys):
                continue
            data = {}
            for name, (offset, size) in entry.members.items():
                file.seek(offset)
                data[name] = file.read(min(size, MAX_MEMBER))
            with suppress(ValueError):  # of a record that is no sample's: left out by `vlp-prep index`
                build(entry.key, data)
                found += 1
    return found


def _verify_sample(shards: ShardSet, number: int, row: int, decode: bool, unchanged: bool) -> list[Problem]:
    manifest = shards.manifest
    shard, columns = manifest.shards[number], manifest.columns(number)
    key = columns.key(row)
    members = columns.members(row)
    data = shards._read(number, members)
    if any(len(data[name]) != size for name, (_, size) in members.items()):
        return [Problem(shard.shard, key, "lies beyond the end of the file")]
    crc32 = int(columns.crc32[row])
    if crc32 and crc32 != chain_crc32(data.values()):
        return [Problem(shard.shard, key, "bytes differ from when it was written")]
    if not crc32 and not unchanged:
        return [Problem(shard.shard, None, "sha256 differs from the manifest's")]
    try:
        sample = build(key, data, shard.shard)
        if sample.key != key:
            return [Problem(shard.shard, key, f"the record there is of key {sample.key!r}")]
        if decode:
            from ..preprocess import decode as decode_image

            for image in (sample.image, *sample.masks.values()):
                if isinstance(image, bytes):
                    decode_image(image, 1)
    except ValueError as error:
        return [Problem(shard.shard, key, str(error))]
    return []
