"""What is scored: the records of one split, of webdataset shards in the order of the manifest, or of a table of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .dataset import Data
from .labels import field_of
from .spec import DataError, DataSpec
from .table import read_table


def present(spec: DataSpec, root: Path) -> bool:
    """Return whether the data of a spec seems to be there."""
    there = spec.table is not None and (root / spec.folder / spec.table).is_file()
    return there or _manifest(spec, root) is not None


def _manifest(spec: DataSpec, root: Path) -> Path | None:
    """Return the folder of shards that a spec names: below `root`, or `root` itself where that is its name."""
    itself = root.absolute().name == Path(spec.folder).name
    for folder in (root / spec.folder, root) if itself else (root / spec.folder,):
        if (folder / "manifest.jsonl").is_file():
            return folder
    return None


def read(spec: DataSpec, root: Path, split: str | None = "", limit: int | None = None) -> Data:
    """Read the records that a spec names; `split` overrides the spec's ("" keeps it). Raises DataError."""
    chosen = spec.split if split == "" else split
    from_table = spec.table and _manifest(spec, root) is None
    data = read_table(spec, root, chosen) if from_table else _read_shards(spec, root, chosen)
    wanted = spec.where or {}
    keep = [
        index
        for index, record in enumerate(data.records)
        if all((record.source if name == "source" else field_of(record, name)) == wanted[name] for name in wanted)
    ]
    if not keep:
        raise DataError(f"{data.name}: no record of split {chosen!r} passes {spec.where or 'the filter'}")
    if spec.one_per:
        first: dict[str, int] = {}
        for index in sorted(keep, key=lambda index: data.records[index].key):
            first.setdefault(getattr(data.records[index], spec.one_per) or data.records[index].key, index)
        keep = sorted(first.values())
    keep = keep[:limit]
    records, places = [data.records[index] for index in keep], [data.places[index] for index in keep]
    return replace(data, records=records, places=places)


def _read_shards(spec: DataSpec, root: Path, split: str | None) -> Data:
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.sample_io import SampleError
    from vlp.data.shards.shard_set import ShardSet
    from vlp.data.shards.tar_index import ManifestError

    folder = _manifest(spec, root) or root / spec.folder
    if folder != root and not (folder / "manifest.jsonl").is_file() and (root / "manifest.jsonl").is_file():
        raise DataError(
            f"no manifest.jsonl in {folder}; {root} holds shards itself, but is not named {spec.folder!r}: "
            "--data is the folder that the sets lie in"
        )
    try:
        manifest = Manifest.read(folder)
        build = frozenset(shard.sha256 for shard in manifest.shards)
        is_whole = spec.takes_whole(split) and not manifest.splits
        manifest, split = (manifest, None) if is_whole else (manifest.select(split), split)
        source = ShardSet(manifest)
        records, rejected = {}, {}
        for index in range(len(source)):
            try:
                records[index] = source.record(index)
            except SampleError as error:
                rejected[source.key(index)] = str(error)
    except (ManifestError, OSError) as error:
        raise DataError(f"{error}") from None
    found, places = list(records.values()), list(records)
    return Data(folder.name, split, found, source.sample, places, manifest.digest, is_whole, rejected, build, manifest)
