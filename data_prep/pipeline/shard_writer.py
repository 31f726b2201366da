"""A set of shards in a folder: webdataset tar files and their manifest, all of it or nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.output import PARTIAL, hold, remove
from vlp.data.shards.manifest import FILE, text_length, write_manifest
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.tar_index import encode_name
from vlp.sample import Sample

from .shard_file import ShardFile, check_key, encode_sample

MADE_BY, LOCK_NAME = "vlp-prep shards", ".vlp-shards.lock"


class ShardWriter:
    """Write samples into `{split}-000000.tar`, ... (`shard-000000.tar` for samples without a split) and a manifest.

    `with ShardWriter(out, source="mimic_cxr", version="2.1.0") as writer: writer.write(sample)`. A shard is closed at
    `shard_size` samples or `shard_bytes` bytes. Shards are written under temporary names; when the block ends without
    an error they get their own and the manifest appears, otherwise everything is removed. Members carry no times, users
    or machine names. Raises ConfigError where `out` already holds a set, InUseError while another process writes one.
    """

    def __init__(
        self, out: Path | str, shard_size: int = 500, source: str = "", version: str = "", shard_bytes: int = 512 << 20
    ) -> None:
        if shard_size < 1:
            raise ConfigError(f"shard_size must be at least 1, found {shard_size}")
        self.out = Path(out)
        self.shard_size, self.shard_bytes = shard_size, shard_bytes
        self.source, self.version = source, version
        self.counts = Counter[str]()
        self._open: dict[str | None, ShardFile] = {}
        self._numbers: dict[str | None, int] = {}
        self._finished: list[tuple[ShardFile, str]] = []
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._close()
        finally:
            for shard in self._open.values():
                shard.discard()
            self._remove_partials()
            self._held.close()

    def write(self, sample: Sample) -> None:
        """Append a sample. Raises SampleError for a key used before, an unknown image format or an unsafe split name."""
        mark = check_key(sample.key, self._keys)
        members = encode_sample(sample, self.source)
        shard = self._open.get(sample.split)
        size = sum(len(data) for data in members.values())
        if shard is not None and (len(shard.entries) >= self.shard_size or shard.size + size > self.shard_bytes):
            self._finish(sample.split)
            shard = None
        if shard is None:
            shard = self._open[sample.split] = self._start(sample.split)
        shard.append(sample.key, members, text_length(sample))
        self._keys.add(mark)
        self.counts[sample.split or "all"] += 1

    def _close(self) -> None:
        """Finish all shards and write the manifest. Raises ConfigError when nothing was written."""
        for split in list(self._open):
            self._finish(split)
        if not self._finished:
            raise ConfigError(f"no samples were written to {self.out}: nothing to make shards of")
        self._finished.sort(key=lambda finished: finished[0].path)
        for shard, _ in self._finished:
            shard.publish()
        write_manifest(self.out, [line for _, line in self._finished])

    def _remove_partials(self) -> None:
        for path in self.out.glob(f".*.tar{PARTIAL}"):
            remove(path, MADE_BY)

    def _start(self, split: str | None) -> ShardFile:
        prefix = split or "shard"
        if encode_name(prefix) != prefix or "/" in prefix or "-" in prefix:
            raise SampleError(f"split {split!r}: expected letters, digits and _ only")
        number = self._numbers[split] = self._numbers.get(split, -1) + 1
        return ShardFile(self.out / f"{prefix}-{number:06d}.tar", split, self.source, self.version)

    def _finish(self, split: str | None) -> None:
        line = self._open[split].finish()
        self._finished.append((self._open.pop(split), line))
