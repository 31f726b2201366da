"""Index a folder of shards, and check shards against their manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vlp.core.untrusted import open_regular, stays_inside
from vlp.sample import Sample

from .foreign.index import Choices, Findings, archives_of, index_shard, nothing_found
from .foreign.members import images, is_mask_key
from .manifest import MAX_MEMBER, Columns, Manifest, format_line, write_manifest
from .sample_io import decode_sample
from .shard_set import ShardSet
from .tar_index import ManifestError, checksum, scan_tar


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
    """Write `manifest.jsonl` for the tar shards of a folder, webdataset shards of other tools included, and return it.

    The split is the one that a shard's path names (`train/0.tar`, `VAL_0.tar`; see `vlp.data.shards.foreign.members`)
    or, where it names none, that of all records. Samples without an image or with a broken record are left out and
    counted through `progress`, which is called with one line per shard, then with what else the user has to know; the
    log says of each why. Raises ManifestError for what is not a complete plain tar, for unsafe names, a key used twice,
    several images, splits in doubt, and for a shard that is a link out of the folder unless `follow_links`.
    """
    folder, choices, findings = Path(folder), choices or Choices(), Findings()
    tars = (path for path in folder.rglob("*") if path.suffix.lower() == ".tar")
    paths = sorted(path for path in tars if not any(part.startswith(".") for part in path.relative_to(folder).parts))
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


def verify(place: Path | str, decode: bool = True, limit: int = 100) -> list[Problem]:
    """Check every byte of a set against its manifest and, with `decode`, that every image and mask decodes.

    Returns at most `limit` problems, [] for a sound set. Raises ManifestError when there is no readable manifest.
    """
    shards = ShardSet(Manifest.read(place))
    numbers = range(len(shards.manifest.shards))
    return list(islice((problem for number in numbers for problem in _verify_shard(shards, number, decode)), limit))


def _verify_shard(shards: ShardSet, number: int, decode: bool) -> list[Problem]:
    shard = shards.manifest.shards[number]
    try:
        path = shards.local(number)
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        columns = shards.manifest.columns(number)
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


def _decode(member: bytes, sample: Sample) -> None:
    """Decode an image, a volume or a mask, whole; raises ImageError."""
    if sample.volume is None:
        from vlp.modalities.image.decode import decode as decode_image

        decode_image(member, 1)
    else:
        from vlp.modalities.volume.store import check

        check(member, sample.volume.shape)


def _not_listed(path: Path, columns: Columns) -> int:
    """Return how many samples of a shard the manifest leaves out, though nothing is wrong with them."""
    entries = list(scan_tar(path))
    keys = {entry.key.lower() for entry in entries}
    listed = set(columns.offset.ravel().tolist())
    found = 0
    with open_regular(path) as file:
        for entry in entries:
            is_listed = any(offset in listed for offset, _ in entry.members.values())
            if is_listed or not images(tuple(entry.members)) or is_mask_key(entry.key, keys):
                continue
            data = {}
            for name, (offset, size) in entry.members.items():
                file.seek(offset)
                data[name] = file.read(min(size, MAX_MEMBER))
            with suppress(ValueError):  # of a record that is no sample's: left out by `vlp-prep index`
                decode_sample(entry.key, data)
                found += 1
    return found


def _verify_sample(shards: ShardSet, number: int, row: int, decode: bool, unchanged: bool) -> list[Problem]:
    shard, columns = shards.manifest.shards[number], shards.manifest.columns(number)
    key, members = columns.key(row), columns.members(row)
    data = shards.read(number, members)
    if any(len(data[name]) != size for name, (_, size) in members.items()):
        return [Problem(shard.shard, key, "lies beyond the end of the file")]
    crc32 = int(columns.crc32[row])
    if crc32 and crc32 != checksum(data.values()):
        return [Problem(shard.shard, key, "bytes differ from when it was written")]
    if not crc32 and not unchanged:
        return [Problem(shard.shard, None, "sha256 differs from the manifest's")]
    try:
        sample = decode_sample(key, data, shard.shard)
        if sample.key != key:
            return [Problem(shard.shard, key, f"the record there is of key {sample.key!r}")]
        if decode:
            for member in (sample.image, *sample.masks.values()):
                if isinstance(member, bytes):
                    _decode(member, sample)
    except ValueError as error:
        return [Problem(shard.shard, key, str(error))]
    return []
