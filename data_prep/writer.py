"""Write samples as webdataset tar shards with a manifest: equal samples give equal bytes, and a set is whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from vlp.config import ConfigError
from vlp.data.index import FILE, FORMAT, Entry, Shard, encode_name, format_line, text_length, write_manifest
from vlp.data.records import SampleError
from vlp.types import Sample

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class ShardWriter:
    """Write samples into `{split}-000000.tar`, ... (`shard-000000.tar` for samples without a split) and a manifest.

    `with ShardWriter(out, source="mimic_cxr", version="2.1.0") as writer: writer.write(sample)`. A shard is closed at
    `shard_size` samples or `shard_bytes` bytes. Shards are written under temporary names; when the block ends without
    an error they get their own and the manifest appears, otherwise everything is removed. Members carry no times, users
    or machine names. Raises ConfigError where `out` already holds a set, unless `overwrite`.
    """

    def __init__(
        self,
        out: Path | str,
        shard_size: int = 500,
        source: str = "",
        version: str = "",
        shard_bytes: int = 512 << 20,
        overwrite: bool = False,
    ) -> None:
        if shard_size < 1:
            raise ConfigError(f"shard_size must be at least 1, found {shard_size}")
        self.out = Path(out)
        self.shard_size, self.shard_bytes = shard_size, shard_bytes
        self.source, self.version, self.overwrite = source, version, overwrite
        self.counts: dict[str, int] = {}
        self._open: dict[str | None, _Open] = {}
        self._numbers: dict[str | None, int] = {}
        self._finished: list[tuple[str, Path, str]] = []
        self._keys: set[bytes] = set()
        if (self.out / FILE).exists() and not overwrite:
            raise ConfigError(f"{self.out} already holds a set of shards: remove it, or choose another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        self._remove_partials()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, sample: Sample) -> None:
        """Append a sample. Raises SampleError for a key used before, an unknown image format or an unsafe split name."""
        if not sample.key:
            raise SampleError("a sample without a key")
        mark = hashlib.blake2b(sample.key.encode(), digest_size=8).digest()
        if mark in self._keys:
            raise SampleError(f"key {sample.key!r} was written before: keys must be unique in a set")
        record = {**sample.to_json(), "format": FORMAT}
        if self.source and not sample.source:
            record["source"] = self.source
        image, extension = _encoded(sample)
        members = {
            "json": json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False).encode(),
            extension: image,
        }
        for name, mask in sorted(sample.masks.items()):
            if not mask.startswith(_PNG):
                raise SampleError(f"mask {name!r} of key {sample.key!r} is not a PNG")
            members[f"{encode_name(name).lower()}.mask.png"] = mask
        shard = self._open.get(sample.split)
        size = sum(len(data) for data in members.values())
        if shard is not None and (len(shard.entries) >= self.shard_size or shard.position + size > self.shard_bytes):
            self._finish(sample.split)
            shard = None
        if shard is None:
            shard = self._open[sample.split] = self._start(sample.split)
        shard.append(sample.key, members, text_length(sample))
        self._keys.add(mark)
        self.counts[sample.split or ""] = self.counts.get(sample.split or "", 0) + 1

    def close(self) -> None:
        """Finish all shards and write the manifest. Raises ConfigError when nothing was written."""
        for split in list(self._open):
            self._finish(split)
        if not self._finished:
            self.abort()
            raise ConfigError(f"no samples were written to {self.out}: nothing to make shards of")
        if self.overwrite:
            (self.out / FILE).unlink(missing_ok=True)
            for path in self.out.glob("*.tar"):
                path.unlink()
        self._finished.sort(key=lambda one: one[0])
        for name, partial, _ in self._finished:
            partial.replace(self.out / name)
        write_manifest(self.out, [line for _, _, line in self._finished])

    def abort(self) -> None:
        """Remove everything that this writer wrote."""
        for shard in self._open.values():
            shard.file.close()
        self._open.clear()
        self._remove_partials()

    def _remove_partials(self) -> None:
        for path in self.out.glob(".*.tar.partial"):
            path.unlink()

    def _start(self, split: str | None) -> _Open:
        prefix = split or "shard"
        if encode_name(prefix) != prefix or "/" in prefix or "-" in prefix:
            raise SampleError(f"split {split!r}: expected letters, digits and _ only")
        number = self._numbers[split] = self._numbers.get(split, -1) + 1
        name = f"{prefix}-{number:06d}.tar"
        partial = self.out / f".{name}.partial"
        return _Open(name, partial, open(partial, "xb"))  # exclusive: follows no link

    def _finish(self, split: str | None) -> None:
        shard = self._open.pop(split)
        shard.end()
        header = Shard(
            shard.name, len(shard.entries), shard.position, shard.digest.hexdigest(), split, self.source, self.version
        )
        self._finished.append((shard.name, shard.partial, format_line(header, shard.entries)))


@dataclass
class _Open:
    """A shard that is being written."""

    name: str
    partial: Path
    file: IO[bytes]
    position: int = 0
    entries: list[Entry] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, key: str, members: dict[str, bytes], chars: int) -> None:
        entry = Entry(key, chars=chars)
        stem = encode_name(key)
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{stem}.{extension}")
            info.size, info.mode = len(data), 0o644  # all else is 0 or empty
            self._put(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
            entry.members[extension] = (self.position, len(data))
            entry.crc32 = zlib.crc32(data, entry.crc32)
            self._put(data)
            self._put(b"\0" * (-len(data) % tarfile.BLOCKSIZE))
        self.entries.append(entry)

    def end(self) -> None:
        self._put(b"\0" * 2 * tarfile.BLOCKSIZE)
        self._put(b"\0" * (-self.position % tarfile.RECORDSIZE))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _put(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.position += len(data)


def _encoded(sample: Sample) -> tuple[bytes, str]:
    """Return the image as JPEG or PNG bytes, unchanged where it is that already, and its extension."""
    image = sample.image
    if isinstance(image, np.ndarray):
        return _png(image, sample.key), "png"
    data = image if isinstance(image, bytes) else image.read_bytes()
    if data.startswith(_JPEG):
        return data, "jpg"
    if data.startswith(_PNG):
        return data, "png"
    where = "" if isinstance(image, bytes) else f" ({image})"
    raise SampleError(f"the image of key {sample.key!r}{where} is neither JPEG nor PNG: decode it to pixels first")


def _png(pixels: np.ndarray, key: str) -> bytes:
    from PIL import Image

    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise SampleError(
            f"the pixels of key {key!r} are {pixels.dtype} {list(pixels.shape)}: expected uint8 [H, W] or [H, W, 3]"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
