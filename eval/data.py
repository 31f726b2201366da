"""What is scored: the records of one split, in the order of the manifest, and their pixels on demand.

Two sorts of data set look alike to a task: webdataset shards with a manifest, and a CSV or JSONL table of images. Reading
the records keeps no pixels. Images that cannot be read are an error, or counted and left out when the user allows it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from vlp.config import ConfigError, config
from vlp.data.members import split_of_word
from vlp.data.tables.boxes import parse_boxes
from vlp.data.tables.cells import CellError, absent, identity, text, texts, word
from vlp.data.tables.labels import label_value
from vlp.data.tables.read import numbered_rows
from vlp.types import Report, Sample
from vlp.untrusted import inside, read_regular


class DataError(ConfigError):
    """The data of a task is absent or unfit; the message says which, where, and what to do."""


@config
class Columns:
    """Which columns of a table hold what. `labels` maps a finding to its column; `boxes` holds JSON [{phrase, xyxy}].

    `key` is what an image is called in the results: its path without the ending, where no column says so. Rows of one
    image are one record with all their texts, labels and boxes. Images are files below the table's folder; a link out of
    it is read with `follow_links`.
    """

    image: str = "image"
    key: str | None = None
    report: str | None = None
    captions: str | None = None
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    boxes: str | None = None
    labels: dict[str, str] | None = None
    groups: tuple[str, ...] = ()
    encoding: str = "utf-8"
    separator: str | None = None
    follow_links: bool = False


@config
class DataSpec:
    """Where a task's data is, below `--data`, and which of it is scored.

    `folder`: shards with a manifest (empty: `--data` itself, which may also be the folder of this name). `table`: a CSV or
    JSONL file, with `columns`, for where there are no shards.
    `split`: None takes everything; `whole_if_unsplit` takes everything of a set without splits. `where`: keep records with
    these values (`modality`, `view`, `source`, or a group column).
    """

    folder: str = ""
    table: str | None = None
    columns: Columns = Columns()
    split: str | None = "test"
    whole_if_unsplit: bool = True
    where: dict[str, str] | None = None

    def __post_init__(self) -> None:
        for name, value in (("folder", self.folder), ("table", self.table or "")):
            if Path(value).is_absolute() or ".." in Path(value).parts:
                raise ValueError(f"{name}: expected a place below --data, found {value!r}")


class Source(Protocol):
    """What `vlp.data.manifest.ShardSet` offers."""

    def __len__(self) -> int: ...
    def sample(self, index: int) -> Sample: ...


class Data:
    """The records of one split [n] without pixels; `image(i)` reads them. `digest` stands for the content.

    `is_whole`: a split was asked for and the set has none, so that these are all of its records, and `split` is None.
    """

    def __init__(
        self,
        name: str,
        split: str | None,
        records: Sequence[Sample],
        source: Source,
        places: Sequence[int],
        digest: str,
        is_whole: bool = False,
    ):
        self.is_whole = is_whole
        self.name, self.split, self.records, self.digest = name, split, list(records), digest
        self._source, self._places = source, list(places)
        self.unreadable: dict[str, str] = {}
        self.rejected: dict[str, str] = {}  # keys of damaged records, which are not among `records`, and why
        self.build: frozenset[str] = frozenset()  # sha256 of the set's shards, those of its other splits included

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> bytes:
        """Return the encoded image of a record; raises DataError naming it when the file is missing."""
        image = self._source.sample(self._places[index]).image
        if isinstance(image, Path):
            try:
                return read_regular(image)
            except OSError as error:
                raise DataError(
                    f"image of {self.records[index].key!r}: cannot read {image}: {error.strerror}"
                ) from None
        if isinstance(image, bytes):
            return image
        import cv2

        pixels = image if image.ndim == 2 else image[..., ::-1]
        return bytes(cv2.imencode(".png", pixels)[1].tobytes())

    def place_of(self, index: int) -> tuple[str, int] | None:
        """Return the sha256 of the shard that a record lies in and the checksum of its members; None outside of shards."""
        manifest = getattr(self._source, "manifest", None)
        if manifest is None:
            return None
        shard, row = manifest.locate(self._places[index])
        return str(manifest.shards[shard].sha256), int(manifest.columns(shard).crc32[row])

    def mask(self, index: int, name: str) -> bytes | None:
        """Return a mask of a record as PNG bytes, or None."""
        return self._source.sample(self._places[index]).masks.get(name)

    def usable(self) -> list[int]:
        """Return the indices of the records whose image has not turned out unreadable."""
        return [index for index, one in enumerate(self.records) if one.key not in self.unreadable]

    @property
    def unit(self) -> str:
        """What is resampled: the patient, or the study or the image where no record says its patient."""
        if any(one.patient for one in self.records):
            return "patient"
        return "study" if any(one.study for one in self.records) else "image"

    def patient(self, index: int) -> str:
        """Return what is resampled: the patient, else the study, else the image itself."""
        one = self.records[index]
        return one.patient or one.study or one.key

    def patient_code(self, index: int) -> str:
        """Return a code for the patient, the same in every run over this data: its number in the order of the records.

        No hash of the id: who has the results could try all ids that there may be.
        """
        return f"p{self._patients[self.patient(index)]}"

    @cached_property
    def _patients(self) -> dict[str, int]:
        """Return the number of each patient, counted from 1 as they come."""
        names = dict.fromkeys(self.patient(index) for index in range(len(self.records)))
        return {name: number for number, name in enumerate(names, 1)}

    @property
    def synthetic(self) -> bool:
        """Whether the records are made up, so that showing their text harms nobody."""
        return all(one.source == "synthetic" for one in self.records)


def ids_digest(keys: Sequence[str]) -> str:
    """Return the sha256 of the sorted ids, one a line: what "the same test set" means."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


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
    data = _read_table(spec, root, chosen) if from_table else _read_shards(spec, root, chosen)
    keep = [index for index, one in enumerate(data.records) if _passes(one, spec.where or {})]
    if not keep:
        raise DataError(f"{data.name}: no record of split {chosen!r} passes {spec.where or 'the filter'}")
    keep = keep[:limit]
    records, places = [data.records[index] for index in keep], [data._places[index] for index in keep]
    chosen_data = Data(data.name, data.split, records, data._source, places, data.digest, data.is_whole)
    chosen_data.rejected, chosen_data.build = data.rejected, data.build
    return chosen_data


def _is_whole(spec: DataSpec, split: str | None) -> bool:
    """Return whether all of a set that is not split stands for the split."""
    return split == "test" and spec.whole_if_unsplit


def _passes(record: Sample, where: Mapping[str, str]) -> bool:
    for name, wanted in where.items():
        value = getattr(record, name) if name in ("modality", "view", "source") else record.groups.get(name)
        if value != wanted:
            return False
    return True


def _read_shards(spec: DataSpec, root: Path, split: str | None) -> Data:
    from vlp.data.index import ManifestError
    from vlp.data.manifest import Manifest, ShardSet
    from vlp.data.records import SampleError

    folder = _manifest(spec, root) or root / spec.folder
    if folder != root and not (folder / "manifest.jsonl").is_file() and (root / "manifest.jsonl").is_file():
        raise DataError(
            f"no manifest.jsonl in {folder}; {root} holds shards itself, but is not named {spec.folder!r}: "
            "--data is the folder that the sets lie in"
        )
    try:
        manifest = Manifest.read(folder)
        build = frozenset(one.sha256 for one in manifest.shards)
        is_whole = _is_whole(spec, split) and not manifest.splits
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
    data = Data(folder.name, split, list(records.values()), source, list(records), manifest.digest, is_whole)
    data.rejected, data.build = rejected, build
    return data


class _Table:
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> Sample:
        return self._samples[index]


def _read_table(spec: DataSpec, root: Path, split: str | None) -> Data:
    columns, folder = spec.columns, root / spec.folder
    try:
        path = inside(folder, str(spec.table), follow_links=True)
        found = list(numbered_rows(path, _named(columns), columns.encoding, separator=columns.separator))
        stamp = hashlib.sha256(read_regular(path))
    except (ConfigError, OSError) as error:  # the reader names the options of vlp-prep
        raise DataError(re.sub(r"--(encoding|separator)\b", r"columns.\1", str(error))) from None
    if not found:
        raise DataError(f"{path} has no rows")
    is_whole = columns.split is None and split is not None
    if is_whole and not _is_whole(spec, split):
        raise DataError(
            f"{path}: no split {split!r}: name the column of the splits in columns.split (split: null reads all rows)"
        )
    split = None if is_whole else split
    samples: dict[str, Sample] = {}
    images: dict[str, str] = {}
    for line, row in found:
        one = _row(columns, row, path, line)
        name = str(row[columns.image])
        if images.setdefault(one.key, name) != name:  # one of them would get the other's embedding
            raise DataError(f"{path}: two images have the key {one.key!r}, {images[one.key]} and {name}")
        before = samples.get(one.key)
        samples[one.key] = one if before is None else _joined(before, one, f"{path}, line {line}")
    records = [one for one in samples.values() if split is None or split in (one.split, split_of_word(one.split or ""))]
    for one in records:
        # Other columns of one table may give a key another image.
        stamp.update(f"{one.key}|{images[one.key]}\n".encode())
        if isinstance(one.image, Path) and one.image.is_file():
            status = one.image.stat()
            stamp.update(f"{status.st_size}|{status.st_mtime_ns}\n".encode())
    return Data(
        path.name,
        split,
        [replace(one, image=b"") for one in records],
        _Table(records),
        range(len(records)),
        stamp.hexdigest(),
        is_whole,
    )


def _named(columns: Columns) -> list[str]:
    """Return the columns that must be there."""
    named = [columns.image, columns.key, columns.report, columns.captions, columns.patient, columns.study]
    named += [columns.split, columns.boxes, *(columns.labels or {}).values(), *columns.groups]
    return [name for name in named if name is not None]


def _row(columns: Columns, row: Mapping[str, Any], path: Path, line: int) -> Sample:
    """Return a row as a sample, its image as the path of a file below the table's folder. Raises DataError."""
    image = row[columns.image]
    try:
        if absent(image) or not isinstance(image, str):
            raise CellError("image_missing", f"column {columns.image!r} names no image")

        def read(reader: Callable[[Any, str], str | None], name: str | None) -> str | None:
            return reader(row[name], name) if name else None

        labels = {name: label_value(row[column], column) for name, column in (columns.labels or {}).items()}
        report = read(text, columns.report)
        return Sample(
            key=read(identity, columns.key) or PurePosixPath(image).with_suffix("").as_posix(),
            image=inside(path.parent, image.replace("\\", "/").removeprefix("./"), follow_links=columns.follow_links),
            report=Report(report or "") if columns.report else None,
            captions=texts(row[columns.captions], columns.captions) if columns.captions else (),
            patient=read(identity, columns.patient),
            study=read(identity, columns.study),
            split=read(word, columns.split),
            labels={name: value for name, value in labels.items() if value is not None},
            groups={name: value for name in columns.groups if (value := read(word, name))},
            boxes=parse_boxes(row[columns.boxes], column=columns.boxes, keep_flat=True) if columns.boxes else (),
            source=path.stem,
        )
    except CellError as error:
        raise DataError(f"{path}, line {line}: {error.detail}") from None
    except ConfigError as error:
        raise DataError(f"{path}, line {line}: {error}") from None


def _joined(first: Sample, more: Sample, where: str) -> Sample:
    """Return a sample with what a further row says of its image: reports and captions in order, labels, boxes."""
    for name in ("patient", "study", "split"):
        if getattr(first, name) != getattr(more, name):
            raise DataError(f"{where}: another {name} than in an earlier row of the same image")
    for name, value in more.labels.items():
        if first.labels.get(name, value) != value:
            raise DataError(f"{where}: label {name!r} has another value than in an earlier row of the same image")
    parts = dict.fromkeys(one.report.text for one in (first, more) if one.report is not None and one.report.text)
    return replace(
        first,
        report=Report("\n".join(parts)) if first.report is not None else None,
        captions=tuple(dict.fromkeys((*first.captions, *more.captions))),
        labels={**first.labels, **more.labels},
        groups={**more.groups, **first.groups},
        boxes=tuple(dict.fromkeys((*first.boxes, *more.boxes))),
    )
