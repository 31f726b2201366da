"""One shard: a tar file of samples. Equal samples give equal bytes, and the file is whole or absent.

    line = write_shard(out / "train-000007.tar", samples, split="train", source="mimic_cxr")

`line` is the shard's entry of a manifest: its digest, and where in the file each member of each sample lies. A worker, or
another tool, can so write one shard of a set alone; `ShardWriter` fills a folder with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from vlp.core.output import partial_of
from vlp.data.shards.manifest import Shard, format_line, text_length
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.tar_index import FORMAT, Entry, encode_name
from vlp.modalities.image import jpeg, png
from vlp.modalities.image.decode import MAY_TURN, ImageError, decode_file, decode_mask, read_image
from vlp.modalities.volume.store import ENDING
from vlp.sample import Sample, Voxels

from ..images.store import as_uint8, encode


class ShardFile:
    """A shard that is being written, under the name `partial` (default: one beside `path`).

    `finish`, then `publish`, or `discard`.
    """

    def __init__(
        self, path: Path, split: str | None = None, source: str = "", version: str = "", partial: Path | None = None
    ) -> None:
        self.path, self.split, self.source, self.version = path, split, source, version
        self.entries: list[Entry] = []
        self.size = 0
        self._digest = hashlib.sha256()
        self._partial = partial or partial_of(path)
        self._file = open(self._partial, "xb")  # noqa: SIM115 - closed by finish and discard; exclusive: follows no link

    def append(self, key: str, members: dict[str, bytes], chars: int) -> None:
        """Append the files of a sample, see `encode_sample`; `chars` is the length of its text."""
        entry = Entry(key, chars=chars)
        stem = encode_name(key)
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{stem}.{extension}")
            info.size, info.mode = len(data), 0o644  # all else is 0 or empty
            self._put(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
            entry.members[extension] = (self.size, len(data))
            entry.crc32 = zlib.crc32(data, entry.crc32)
            self._put(data)
            self._put(b"\0" * (-len(data) % tarfile.BLOCKSIZE))
        self.entries.append(entry)

    def finish(self) -> str:
        """End the tar file and bring it to the disk; return the shard's line of a manifest."""
        self._put(b"\0" * 2 * tarfile.BLOCKSIZE)
        self._put(b"\0" * (-self.size % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        digest, count = self._digest.hexdigest(), len(self.entries)
        header = Shard(self.path.name, count, self.size, digest, self.split, self.source, self.version)
        return format_line(header, self.entries)

    def publish(self) -> None:
        """Give the finished file its own name."""
        self._partial.replace(self.path)

    def discard(self) -> None:
        """Remove what was written and is not published."""
        with suppress(OSError):  # a full disk takes the rest no better
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def write_shard(
    path: Path,
    samples: Iterable[Sample],
    split: str | None = None,
    source: str = "",
    version: str = "",
    partial: Path | None = None,
) -> str | None:
    """Write samples as one shard, whole or not at all; return its line of a manifest, None (and no file) without samples.

    What an interrupted attempt left under the temporary name is replaced. Raises SampleError, see `encode_sample`.
    """
    partial = partial or partial_of(path)
    partial.unlink(missing_ok=True)
    shard, seen = ShardFile(path, split, source, version, partial), set[bytes]()
    try:
        for sample in samples:
            mark = check_key(sample.key, seen)
            shard.append(sample.key, encode_sample(sample, source), text_length(sample))
            seen.add(mark)
        if not shard.entries:
            return None
        line = shard.finish()
        shard.publish()
        return line
    finally:
        shard.discard()


def check_key(key: str, seen: set[bytes]) -> bytes:
    """Return 8 bytes of a key's hash, to be added to `seen` once its sample is written.

    Raises SampleError for an empty key and one that was seen before.
    """
    if not key:
        raise SampleError("a sample without a key")
    mark = hashlib.blake2b(key.encode(), digest_size=8).digest()
    if mark in seen:
        raise SampleError(f"key {key!r} was written before: keys must be unique in a set")
    return mark


def encode_sample(sample: Sample, source: str = "") -> dict[str, bytes]:
    """Return the files of a sample by their extensions; `source` is written where the sample names none.

    Raises SampleError for an image that is neither JPEG nor PNG nor uint8 pixels, and for a mask that is no PNG.
    """
    record = {**sample.to_json(), "format": FORMAT}
    if source and not sample.source:
        record["source"] = source
    image, extension = _encoded(sample)
    members = {
        "json": json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False).encode(),
        extension: image,
    }
    for name, mask in sorted(sample.masks.items()):
        if sample.volume is not None:  # made by `store_volume_mask`
            members[f"{encode_name(name).lower()}.mask.{ENDING}"] = mask
            continue
        what = f"mask {name!r} of key {sample.key!r}"
        if not mask.startswith(png.START):
            raise SampleError(f"{what} is not a PNG")
        try:
            clean = _pixels_only(mask) or encode(decode_mask(mask).astype(np.uint8) * 255, "png")
        except ImageError as error:
            raise SampleError(f"{what} cannot be stored: {error}") from None
        members[f"{encode_name(name).lower()}.mask.png"] = clean
    return members


def _encoded(sample: Sample) -> tuple[bytes, str]:
    """Return the image as JPEG or PNG bytes, unchanged where it is that already, and its extension."""
    image = sample.image
    if sample.volume is not None and isinstance(image, bytes):  # made by `store_volume`: nothing in it but voxels
        return image, ENDING
    if isinstance(image, Voxels):
        raise SampleError(f"the volume of key {sample.key!r} is not stored yet: `store_volume` makes its bytes")
    try:
        if isinstance(image, np.ndarray):
            return encode(as_uint8(image), "png"), "png"
        data = image if isinstance(image, bytes) else read_image(image)
        if not data.startswith((jpeg.START, png.START)):
            raise ImageError("it is neither JPEG nor PNG: decode it to pixels first")
        clean = _pixels_only(data)
        if clean is None:  # turned, or with a palette: what holds a name may be what its pixels need
            return encode(decode_file(data).pixels, "png"), "png"
        return clean, "jpg" if data.startswith(jpeg.START) else "png"
    except ImageError as error:
        raise SampleError(f"the image of key {sample.key!r} cannot be stored: {error}") from None


def _pixels_only(data: bytes) -> bytes | None:
    """Return a JPEG or PNG with nothing in it but pixels, itself where it is that already, None where that is no copy."""
    if data.startswith(jpeg.START):
        return jpeg.pixels_only(data) if jpeg.orientation(data) == 1 else None
    layout = png.read_layout(data)
    if not png.besides_pixels(data):
        return data
    return None if layout.has(*MAY_TURN) else png.pixels_only(data, layout)
