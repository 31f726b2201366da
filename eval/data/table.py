"""Evaluation data from tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.core.config import ConfigError
from vlp.core.untrusted import inside, read_regular
from vlp.data.shards.foreign.members import split_of_word
from vlp.data.tables.boxes import parse_boxes
from vlp.data.tables.cells import CellError, absent, identity, text, texts, word
from vlp.data.tables.labels import label_value
from vlp.data.tables.read import numbered_rows
from vlp.sample import Report, Sample

from .dataset import Data
from .spec import Columns, DataError, DataSpec


def read_table(spec: DataSpec, root: Path, split: str | None) -> Data:
    columns, folder = spec.columns, root / spec.folder
    try:
        path = inside(folder, str(spec.table), follow_links=True)
        found = list(numbered_rows(path, columns.named(), columns.encoding, separator=columns.separator))
        stamp = hashlib.sha256(read_regular(path))
    except (ConfigError, OSError) as error:  # the reader names the options of vlp-prep
        raise DataError(re.sub(r"--(encoding|separator)\b", r"columns.\1", str(error))) from None
    if not found:
        raise DataError(f"{path} has no rows")
    is_whole = columns.split is None and split is not None
    if is_whole and not spec.takes_whole(split):
        raise DataError(
            f"{path}: no split {split!r}: name the column of the splits in columns.split (split: null reads all rows)"
        )
    split = None if is_whole else split
    samples: dict[str, Sample] = {}
    images: dict[str, str] = {}
    for line, row in found:
        sample = _row(columns, row, path, line)
        name = str(row[columns.image])
        if images.setdefault(sample.key, name) != name:  # one of them would get the other's embedding
            raise DataError(f"{path}: two images have the key {sample.key!r}, {images[sample.key]} and {name}")
        before = samples.get(sample.key)
        samples[sample.key] = sample if before is None else _joined(before, sample, f"{path}, line {line}")
    records = list(samples.values())
    if split is not None:
        records = [record for record in records if split in (record.split, split_of_word(record.split or ""))]
    for record in records:
        # Other columns of one table may give a key another image.
        stamp.update(f"{record.key}|{images[record.key]}\n".encode())
        if isinstance(record.image, Path) and record.image.is_file():
            status = record.image.stat()
            stamp.update(f"{status.st_size}|{status.st_mtime_ns}\n".encode())
    without_pixels = [replace(record, image=b"") for record in records]
    return Data(path.name, split, without_pixels, records.__getitem__, range(len(records)), stamp.hexdigest(), is_whole)


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
    except (CellError, ConfigError) as error:
        raise DataError(f"{path}, line {line}: {getattr(error, 'detail', error)}") from None


def _joined(first: Sample, more: Sample, where: str) -> Sample:
    """Return a sample with what a further row says of its image: reports and captions in order, labels, boxes."""
    for name in ("patient", "study", "split"):
        if getattr(first, name) != getattr(more, name):
            raise DataError(f"{where}: another {name} than in an earlier row of the same image")
    for name, value in more.labels.items():
        if first.labels.get(name, value) != value:
            raise DataError(f"{where}: label {name!r} has another value than in an earlier row of the same image")
    reports = dict.fromkeys(sample.report.text for sample in (first, more) if sample.report and sample.report.text)
    return replace(
        first,
        report=Report("\n".join(reports)) if first.report is not None else None,
        captions=tuple(dict.fromkeys((*first.captions, *more.captions))),
        labels={**first.labels, **more.labels},
        groups={**more.groups, **first.groups},
        boxes=tuple(dict.fromkeys((*first.boxes, *more.boxes))),
    )
