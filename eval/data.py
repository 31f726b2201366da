"""What is scored: the records of one split, in the order of the manifest, and their pixels on demand.

Two sorts of data set look alike to a task: webdataset shards with a manifest, and a CSV or JSONL table of images. Reading
the records keeps no pixels. Images that cannot be read are an error, or counted and left out when the user allows it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from vlp.config import ConfigError, config
from vlp.registry import did_you_mean
from vlp.types import Box, Report, Sample


class DataError(ConfigError):
    """The data of a task is absent or unfit; the message says which, where, and what to do."""


@config
class Columns:
    """Which columns of a table hold what. `labels` maps a finding to its column; `boxes` holds JSON [{phrase, xyxy}].

    `key` is what an image is called in the results: its path without the ending, where no column says so.
    """

    image: str = "image"
    key: str | None = None
    report: str | None = None
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    boxes: str | None = None
    labels: dict[str, str] | None = None
    groups: tuple[str, ...] = ()


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
    """The records of one split [n] without pixels; `image(i)` reads them. `digest` stands for the content."""

    def __init__(
        self,
        name: str,
        split: str | None,
        records: Sequence[Sample],
        source: Source,
        places: Sequence[int],
        digest: str,
    ):
        self.name, self.split, self.records, self.digest = name, split, list(records), digest
        self._source, self._places = source, list(places)
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> bytes:
        """Return the encoded image of a record; raises DataError naming it when the file is missing."""
        image = self._source.sample(self._places[index]).image
        if isinstance(image, Path):
            try:
                return image.read_bytes()
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
        """Return a code for the patient that says nothing of who it is, the same in every run over this data."""
        return hashlib.blake2b(f"{self.digest}|{self.patient(index)}".encode(), digest_size=6).hexdigest()

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
    return Data(
        data.name, chosen, [data.records[i] for i in keep], data._source, [data._places[i] for i in keep], data.digest
    )


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
        if not (split == "test" and spec.whole_if_unsplit and not manifest.splits):
            manifest = manifest.select(split)
        source = ShardSet(manifest)
        records = [source.record(index) for index in range(len(source))]
    except (ManifestError, SampleError) as error:
        raise DataError(f"{error}") from None
    return Data(folder.name, split, records, source, range(len(records)), manifest.digest)


class _Table:
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> Sample:
        return self._samples[index]


def _read_table(spec: DataSpec, root: Path, split: str | None) -> Data:
    path = root / spec.folder / str(spec.table)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    lines, rows = _rows_of(text, path)
    if not rows:
        raise DataError(f"{path} has no rows")
    _check_columns(spec.columns, rows[0], path)
    samples = [_row(spec.columns, row, path, line) for line, row in zip(lines, rows, strict=True)]
    images: dict[str, str] = {}
    for one, name in ((one, str(row[spec.columns.image])) for one, row in zip(samples, rows, strict=True)):
        if images.setdefault(one.key, name) != name:  # one of them would get the other's embedding
            raise DataError(f"{path}: two images have the key {one.key!r}, {images[one.key]} and {name}")
    if split is not None and spec.columns.split:
        samples = [one for one in samples if one.split == split]
    stamp = hashlib.sha256(text.encode())
    for one in samples:
        # Other columns of one table may give a key another image.
        stamp.update(f"{one.key}|{images[one.key]}\n".encode())
        if isinstance(one.image, Path) and one.image.is_file():
            status = one.image.stat()
            stamp.update(f"{status.st_size}|{status.st_mtime_ns}\n".encode())
    return Data(
        path.name,
        split,
        [replace(one, image=b"") for one in samples],
        _Table(samples),
        range(len(samples)),
        stamp.hexdigest(),
    )


def _rows_of(text: str, path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the rows of a CSV or JSONL text and the line on which each ends. Raises DataError naming the line.

    Not by `splitlines`, which cuts at the newlines inside of quoted cells, at U+2028 and at U+0085.
    """
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    if path.suffix in (".jsonl", ".json"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append(dict(json.loads(line)))
                except (ValueError, TypeError):
                    raise DataError(
                        f"{path}, line {number}: expected a JSON object, found {len(line)} other characters"
                    ) from None
                lines.append(number)
        return lines, rows
    reader = csv.DictReader(io.StringIO(text))
    try:
        for row in reader:
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}") from None
    return lines, rows


def _check_columns(columns: Columns, row: Mapping[str, Any], path: Path) -> None:
    named = [columns.image, columns.key, columns.report, columns.patient, columns.study, columns.split, columns.boxes]
    for name in [*named, *(columns.labels or {}).values(), *columns.groups]:
        if name is not None and name not in row:
            raise DataError(f"{path} has no column {name!r}{did_you_mean(name, row)}")


def _row(columns: Columns, row: Mapping[str, Any], path: Path, number: int) -> Sample:
    def cell(name: str | None) -> str | None:
        value = row.get(name) if name else None
        return str(value) if value not in (None, "") else None

    try:
        if cell(columns.image) is None:
            raise ValueError(f"column {columns.image!r} names no image")
        return Sample(
            key=cell(columns.key) or Path(str(row[columns.image])).with_suffix("").as_posix(),
            image=path.parent / str(row[columns.image]),
            report=Report(cell(columns.report) or "") if columns.report else None,
            patient=cell(columns.patient),
            study=cell(columns.study),
            split=cell(columns.split),
            labels={k: _label(v, c) for k, c in (columns.labels or {}).items() if (v := cell(c)) is not None},
            groups={name: value for name in columns.groups if (value := cell(name)) is not None},
            boxes=_boxes(cell(columns.boxes) or "[]", columns.boxes),
            source=path.stem,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number}: {error}") from None


def _label(value: str, column: str) -> int:
    """Return what a cell of labels says: 1, 0, or -1 for uncertain. Raises ValueError."""
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number not in (1, 0, -1):
        raise ValueError(f"column {column!r}: expected 1, 0 or -1, found {value!r}")
    return int(number)


def _boxes(value: str, column: str | None) -> tuple[Box, ...]:
    """Return the boxes of a cell [{phrase, xyxy, label?}]. Raises ValueError."""
    boxes = []
    try:
        for one in json.loads(value):
            x1, y1, x2, y2 = (float(edge) for edge in one["xyxy"])
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                raise ValueError
            boxes.append(Box(str(one["phrase"]), (x1, y1, x2, y2), one.get("label")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f'column {column!r}: expected JSON [{{"phrase": text, "xyxy": [x1, y1, x2, y2]}}], found '
            f"{len(value)} characters of something else"
        ) from None
    return tuple(boxes)
