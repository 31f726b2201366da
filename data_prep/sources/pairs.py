"""Your own image-report pairs: a CSV, TSV, JSON, JSON lines or Parquet table and a mapping from fields to its columns.

    vlp-prep build pairs --raw DIR --table pairs.csv --map image=path report=text patient=mrn --out DIR

A field that is not mapped takes the column of its own name, if there is one. Images are paths below the raw folder (JPEG,
PNG, TIFF, DICOM, ...) or bytes in the table (Parquet; base64 in text tables, field `bytes`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vlp.config import config
from vlp.registry import did_you_mean
from vlp.types import Box, Report, Sample

from ..labels import from_columns, is_value, json_value, names_in, parse_boxes
from ..tables import Row, row_at, rows
from .base import Record, Reject, Source, SourceError, safe_key, sources

FIELDS = (
    *("key", "image", "bytes", "report", "findings", "impression", "captions", "patient", "study", "view", "modality"),
    *("split", "sex", "age", "site", "licence", "labels", "boxes", "masks"),
)
TABLES = ("pairs", "metadata", "data", "train")


@sources.register("pairs")
class Pairs(Source):
    name = "pairs"
    licence = "your own"

    @config
    class Config:
        """`map` is field to column; `labels` may name several columns, joined by commas.

        `closed_labels`: a label that occurs elsewhere in the table and not in this row is absent (0) in this row.
        `box_format`: what four numbers of a box are.
        """

        table: str | None = None
        map: dict[str, str] = field(default_factory=dict)
        encoding: str = "utf-8"
        modality: str | None = None
        licence: str | None = None
        closed_labels: bool = False
        box_format: Literal["xyxy", "xywh"] = "xyxy"

    def records(self) -> Iterator[Record]:
        table = self._table
        columns: dict[str, str] = {}
        names: list[str] = []
        for number, row in enumerate(rows(table, (), self.config.encoding, skip_bytes=True)):
            if number == 0:
                columns = self._columns(table, row)
                if self.config.closed_labels:
                    names = self._names(table, columns)
            picked = {name: row.get(column, "") for name, column in columns.items() if name != "labels"}
            if "labels" in columns:
                picked["labels"] = {name: row.get(name, "") for name in columns["labels"].split(",")}
            image = picked.get("image", "")
            named = picked.get("key") or (str(PurePosixPath(str(image)).with_suffix("")) if image else "")
            if isinstance(image, dict):
                named = picked.get("key") or ""
            yield Record(
                key=safe_key(str(named).replace("/", "_").replace("\\", "_")) if named else f"row{number:08d}",
                patient=str(picked["patient"]) if picked.get("patient") else None,
                study=str(picked["study"]) if picked.get("study") else None,
                split=str(picked["split"]) if picked.get("split") else None,
                data={"row": picked, "number": number, "columns": columns, "names": names},
            )

    @cached_property
    def _table(self) -> Path:
        if self.config.table:
            return self.path(self.config.table)
        found = [path for stem in TABLES for path in sorted(self.raw.glob(f"{stem}.*")) if path.is_file()]
        if not found:
            raise SourceError(f"pairs: no table in {self.raw}: give --table, the name of a CSV, JSONL or Parquet in it")
        return found[0]

    def _columns(self, table: Path, row: Row) -> dict[str, str]:
        """Return field to column for this table; raises SourceError for an unknown field or column."""
        for name, column in self.config.map.items():
            if name not in FIELDS:
                raise SourceError(f"--map {name}={column}: no field {name!r}{did_you_mean(name, FIELDS)}")
            for one in column.split(",") if name == "labels" else [column]:
                if one not in row:
                    raise SourceError(f"--map {name}={column}: {table} has no column {one!r}{did_you_mean(one, row)}")
        columns = {name: name for name in FIELDS if name in row} | dict(self.config.map)
        if "image" not in columns and "bytes" not in columns:
            raise SourceError(f"{table}: which column holds the image? give --map image=COLUMN (has: {', '.join(row)})")
        return columns

    def _names(self, table: Path, columns: dict[str, str]) -> list[str]:
        found: set[str] = set()
        for row in rows(table, (), self.config.encoding, skip_bytes=True):
            try:
                found.update(_labels({name: row.get(name, "") for name in columns.get("labels", "").split(",")}))
            except Reject:
                continue  # reported when this row's own sample is made
        return sorted(found)

    def sample(self, record: Record) -> Sample:
        row = record.data["row"]
        labels = _labels(row.get("labels") or {})
        if labels:
            labels = {**dict.fromkeys(record.data["names"], 0), **labels}
        groups = {name: str(row[name]) for name in ("sex", "age", "site") if row.get(name)}
        boxes = parse_boxes(row.get("boxes") or "", self.config.box_format)
        return Sample(
            key=record.key,
            image=self._image(record),
            report=_report(row),
            captions=_captions(row.get("captions")),
            study=record.study,
            patient=record.patient,
            modality=row.get("modality") or self.config.modality,
            view=row.get("view") or None,
            labels=labels,
            boxes=tuple(Box(phrase, xyxy) for phrase, xyxy in boxes),
            masks=self._masks(record),
            groups=groups,
            source=self.name,
            licence=row.get("licence") or self.config.licence or "",
        )

    def _image(self, record: Record) -> Path | bytes:
        row, columns = record.data["row"], record.data["columns"]
        column = columns.get("bytes") or columns["image"]
        value = row["bytes"] if "bytes" in columns else row["image"]
        if self._table.suffix in (".parquet", ".pq") and value == "":
            value = row_at(self._table, record.data["number"], column)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path") or ""
        if isinstance(value, bytes):
            return value
        if "bytes" in columns and value:
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise Reject("image_unreadable", f"column {column!r} is not base64: {error}") from None
        return self.image(str(value))

    def _masks(self, record: Record) -> dict[str, bytes]:
        value = json_value(record.data["row"].get("masks") or {})
        if isinstance(value, str):
            value = {record.data["columns"]["masks"]: value}
        return {name: self.image(path).read_bytes() for name, path in value.items() if path}


def _labels(cells: dict[str, Any]) -> dict[str, int]:
    """Return the labels in a row's label columns: values under the column's name, mappings, or names of what is there."""
    found: dict[str, int] = {}
    for column, cell in cells.items():
        value = json_value(cell)
        if value == "":
            continue
        if isinstance(value, dict):
            found |= from_columns(value, value)
        elif is_value(value):
            found |= from_columns({column: value}, [column])
        else:
            found |= dict.fromkeys(names_in(value), 1)
    return found


def _report(row: Row) -> Report | None:
    text = str(row.get("report") or "")
    parts = [f"{name.upper()}: {row[name]}" for name in ("findings", "impression") if row.get(name)]
    text = "\n".join([text, *parts] if text else parts)
    return Report(text) if text.strip() else None


def _captions(value: Any) -> tuple[str, ...]:
    value = json_value(value) if value else ()
    return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else (str(value),)
