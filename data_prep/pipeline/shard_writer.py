"""Write samples as webdataset tar shards with a manifest: equal samples give equal bytes, and a set is whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.output import PARTIAL, hold, partial_of, remove
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.tar_index import FILE, FORMAT, Entry, Shard, encode_name, format_line, text_length, write_manifest
from vlp.modalities.image import jpeg, png
from vlp.modalities.image.decode import MAY_TURN, ImageError, decode_file, decode_mask, read_image
from vlp.sample import Sample

MADE_BY, LOCK_NAME = "vlp-prep shards", ".vlp-shards.lock"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class ShardWriter:
    """Write samples into `{split}-000000.tar`, ... (`shard-000000.tar` for samples without a split) and a manifest.

    `with ShardWriter(out, source="mimic_cxr", version="2.1.0") as writer: writer.write(sample)`. A shard is closed at
    `shard_size` samples or `shard_bytes` bytes. Shards are written under temporary names; when the block ends without
    an error they get their own and the manifest appears, otherwise everything is removed. Members carry no times, users
    or machine names. Raises ConfigError where `out` already holds a set, InUseError while another process writes one.
    """

    def __init__(
        self,
        out: Path | str,
        shard_size: int = 500,
        source: str = "",
        version: str = "",
        shard_bytes: int = 512 << 20,
    ) -> None:
        if shard_size < 1:
            raise ConfigError(f"shard_size must be at least 1, found {shard_size}")
        self.out = Path(out)
        self.shard_size, self.shard_bytes = shard_size, shard_bytes
        self.source, self.version = source, version
        self.counts: dict[str, int] = {}
        self._open: dict[str | None, _Open] = {}
        self._numbers: dict[str | None, int] = {}
        self._finished: list[tuple[str, Path, str]] = []
        self._keys: set[bytes] = set()
        self._held = ExitStack()
        there = [path.name for path in (self.out / FILE, *self.out.glob("*.tar")) if path.is_file()]
        if there and not all((self.out / name).is_symlink() for name in there):
            raise ConfigError(
                f"{self.out} already holds a set of shards ({there[0]}): remove it, or choose another folder"
            )
        self._held.enter_context(hold(self.out, MADE_BY, name=LOCK_NAME))
        self._remove_partials()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
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
            members[f"{encode_name(name).lower()}.mask.png"] = _clean_mask(mask, name, sample.key)
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
        self._finished.sort(key=lambda one: one[0])
        for name, partial, _ in self._finished:
            partial.replace(self.out / name)
        write_manifest(self.out, [line for _, _, line in self._finished])
        self._held.close()

    def abort(self) -> None:
        """Remove everything that this writer wrote."""
        for shard in self._open.values():
            with suppress(OSError):  # a full disk takes the rest no better
                shard.file.close()
        self._open.clear()
        self._remove_partials()
        self._held.close()

    def _remove_partials(self) -> None:
        for path in self.out.glob(f".*.tar{PARTIAL}"):
            remove(path, MADE_BY)

    def _start(self, split: str | None) -> _Open:
        prefix = split or "shard"
        if encode_name(prefix) != prefix or "/" in prefix or "-" in prefix:
            raise SampleError(f"split {split!r}: expected letters, digits and _ only")
        number = self._numbers[split] = self._numbers.get(split, -1) + 1
        name = f"{prefix}-{number:06d}.tar"
        partial = partial_of(self.out / name)
        return _Open(name, partial, open(partial, "xb"))  # exclusive: follows no link

    def _finish(self, split: str | None) -> None:
        shard = self._open[split]
        shard.end()
        del self._open[split]
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
    try:
        data = image if isinstance(image, bytes) else read_image(image)
        if not data.startswith((_JPEG, _PNG)):
            raise ImageError("it is neither JPEG nor PNG: decode it to pixels first")
        clean = _pixels_only(data)
        if clean is None:  # turned, or with a palette: what holds a name may be what its pixels need
            return _png(decode_file(data).pixels, sample.key), "png"
        return clean, "jpg" if data.startswith(_JPEG) else "png"
    except ImageError as error:
        raise SampleError(f"the image of key {sample.key!r} cannot be stored: {error}") from None


def _clean_mask(mask: bytes, name: str, key: str) -> bytes:
    """Return a mask with nothing in it but pixels."""
    try:
        clean = _pixels_only(mask)
        return _png(decode_mask(mask).astype(np.uint8) * 255, key) if clean is None else clean
    except ImageError as error:
        raise SampleError(f"mask {name!r} of key {key!r} cannot be stored: {error}") from None


def _pixels_only(data: bytes) -> bytes | None:
    """Return a JPEG or PNG with nothing in it but pixels, itself where it is that already, None where that is no copy."""
    if data.startswith(_JPEG):
        return jpeg.pixels_only(data) if jpeg.orientation(data) == 1 else None
    layout = png.read_layout(data)
    if not png.besides_pixels(data):
        return data
    return None if layout.has(*MAY_TURN) else png.pixels_only(data, layout)


def _png(pixels: np.ndarray, key: str) -> bytes:
    from PIL import Image

    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise SampleError(
            f"the pixels of key {key!r} are {pixels.dtype} {list(pixels.shape)}: expected uint8 [H, W] or [H, W, 3]"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
