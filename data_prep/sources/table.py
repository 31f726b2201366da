"""A source whose records are the rows of tables: which column holds what, which rows are of one image, cells to samples.

`pairs` and `hf` are two ways to find the tables; all that they say of an image is read here, by one set of rules.
"""

from __future__ import annotations

import base64
import binascii
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean
from vlp.core.untrusted import read_regular
from vlp.data.tables.boxes import parse_boxes
from vlp.data.tables.cells import CellError, absent, describe, identity, structure, text, texts, word
from vlp.data.tables.keys import Names, path_name
from vlp.data.tables.labels import cell_labels, is_value, names_in
from vlp.data.tables.read import Row
from vlp.modalities.volume.read import is_volume_file
from vlp.modalities.volume.volume import Volume
from vlp.sample import Sample

from ..images.modality_codes import modality_of
from ..images.volumes import masks_of, turned
from ..readers.file_table import Table
from .base import Record, Reject, Source

FIELDS = (
    *("key", "image", "bytes", "report", "findings", "impression", "captions", "patient", "study", "view", "modality"),
    *("split", "sex", "age", "site", "sequence", "groups", "licence", "labels", "boxes", "masks"),
)
LISTS = ("labels", "groups")
"""Fields that may name several columns."""
ALIASES = {
    "image": ("file_name", "image_file_name"),
    "report": ("text",),
    "captions": ("caption",),
    "labels": ("label",),
    "patient": ("patient_id", "subject_id"),
    "study": ("study_id",),
}
"""Columns that are taken for a field that is neither mapped nor there under its own name."""
WORDS = ("modality", "view", "licence")
GROUPS = ("sex", "age", "site", "sequence")


@config
class TableConfig:
    """`map` is field to column; `labels` may name several columns of values, joined by commas, and `groups` further columns
    that scores are broken down by.

    `separator` of a CSV that is not separated by commas. `closed_labels`: a label that occurs elsewhere in the table and
    not in this row is absent (0) in this row. `box_format`: what the numbers of a box are: four, in pixels, or of a volume
    six (i, j, k of the low corner, then the high one, or the size), in voxels of its file's array as it lies there.

    A row that names a study and no image is of all images of that study: a report that they share. A mask of a volume is a
    file of the same geometry; `path#5` is where such a file holds 5.
    """

    map: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    separator: str | None = None
    modality: str | None = None
    licence: str | None = None
    closed_labels: bool = False
    box_format: Literal["xyxy", "xywh"] = "xyxy"


class TableSource(Source):
    """Rows to records and samples. A subclass finds the tables."""

    @abstractmethod
    def find_tables(self) -> list[Table]:
        """Return the tables of the set, in a stable order; raises ConfigError."""

    def names_images(self, table: Table) -> bool:
        """Return whether the images of a table are named in it, so that an empty cell is none; else they may lie in it."""
        return False

    @cached_property
    def _tables(self) -> list[Table]:
        return self.find_tables()

    def columns(self, table: Table) -> dict[str, str]:
        """Return field to column for a table; raises ConfigError for an unknown field or column."""
        there = table.columns
        for name, column in self.config.map.items():
            if name not in FIELDS:
                raise ConfigError(f"--map {name}={column}: no field {name!r}{did_you_mean(name, FIELDS)}")
            for part in column.split(",") if name in LISTS else [column]:
                if part not in there:
                    near = did_you_mean(part, there)
                    raise ConfigError(f"--map {name}={column}: {table.name} has no column {part!r}{near}")
        found = {name: name for name in FIELDS if name in there} | dict(self.config.map)
        for name, others in ALIASES.items():
            other = next((other for other in others if other in there and other not in found.values()), None)
            if name not in found and other is not None:
                found[name] = other
        if "image" not in found and "bytes" not in found:
            listed = ", ".join(there)[:400]
            raise ConfigError(f"{table.name}: which column holds the image? give --map image=COLUMN (has: {listed})")
        return found

    def records(self) -> Iterator[Record]:
        scan = _Scan(self._rows(), self.config.closed_labels)
        waiting: dict[int, list[_Row]] = {}
        for row in self._rows():
            if row.of_study is not None:
                continue
            group = scan.names.group(row.name, row.image)
            if scan.names.rows_of(group) == 1:
                yield self._record([row], scan)
                continue
            rows_of_image = waiting.setdefault(group, [])
            rows_of_image.append(row)
            if len(rows_of_image) == scan.names.rows_of(group):
                del waiting[group]
                distinct: list[_Row] = []
                for row_here in rows_of_image:
                    if all(row_here.cells != kept.cells for kept in distinct):
                        distinct.append(row_here)
                yield self._record(distinct, scan)
                for row_again in rows_of_image:
                    if row_again not in distinct:  # the same in every cell: a duplicate, counted
                        yield self._record([row_again], scan)
        for row in scan.without_images():
            yield self._record([row], scan)

    def _rows(self) -> Iterator[_Row]:
        numbers: dict[str, int] = {}
        for at, table in enumerate(self._tables):
            columns = self.columns(table)
            single = {name: column for name, column in columns.items() if name not in LISTS}
            lists = {name: columns[name].split(",") if name in columns else [] for name in LISTS}
            is_text = "bytes" not in columns and self.names_images(table)
            for number, row in enumerate(table.rows()):
                cells = {name: row.get(column, "") for name, column in single.items()}
                cells |= {name: {column: row.get(column, "") for column in lists[name]} for name in LISTS}
                overall = numbers.get(table.prefix, 0)
                numbers[table.prefix] = overall + 1
                found = _Row(at, number, cells, columns, f"{table.prefix}{overall:08d}", table)
                if is_text and absent(cells.get("image", "")):
                    found.of_study = _study(cells)
                yield found

    def _record(self, group: list[_Row], scan: _Scan) -> Record:
        """Return the record of an image's rows; what is wrong with their ids is told when the sample is made."""
        first = group[0]
        group = [*group, *scan.of_study(group)]
        data: dict[str, Any] = {
            "rows": [row.cells for row in group],
            "table": first.table,
            "number": first.number,
            "columns": first.columns,
            "values": sorted(scan.value_columns),
            "names": scan.label_names() if self.config.closed_labels else [],
        }
        ids: dict[str, str | None] = {}
        try:
            for name in ("patient", "study", "split"):
                read = word if name == "split" else identity
                column = first.columns.get(name, name)
                found = [read(row.cells.get(name, ""), column) for row in group]
                ids[name] = _agreed([value for value in found if value], column)
        except CellError as error:
            data["problem"] = (error.reason, error.detail, True)
        return Record(
            key=scan.names.key(first.name, first.is_path),
            patient=ids.get("patient"),
            study=ids.get("study"),
            split=ids.get("split") or first.split,
            data=data,
        )

    def place(self, record: Record) -> str:
        """Return the table, the row and the image of a record, for the owner of the data."""
        data = record.data
        image = data["rows"][0].get("image", "")
        shown = f", {image}" if isinstance(image, str) and image else ""
        return f"{self._tables[data['table']].name}, row {data['number'] + 1}{shown}"

    def sample(self, record: Record) -> Sample:
        """Return what the rows of an image say of it; raises Reject and CellError."""
        self.refuse(record)
        data = record.data
        group, columns = data["rows"], data["columns"]
        words = {
            name: _agreed([found for row in group if (found := word(row.get(name, ""), columns.get(name, name)))], name)
            for name in (*WORDS, *GROUPS)
        }
        modality = words["modality"] or self.config.modality
        image = self._image(record)
        volume = None
        if isinstance(image, Path) and is_volume_file(image):
            volume = self.volume(image, modality=modality_of(modality))
        captions = dict.fromkeys(
            caption for row in group for caption in texts(row.get("captions", ""), columns.get("captions", "captions"))
        )
        boxes = dict.fromkeys(
            box
            for row in group
            for box in parse_boxes(row.get("boxes", ""), self.config.box_format, column=columns.get("boxes", "boxes"))
        )
        return self.sample_of(
            record,
            volume or image,
            report=self.texts(record),
            captions=tuple(captions),
            modality=modality,
            view=words["view"],
            labels=self.labels(record),
            boxes=tuple(turned(box, volume) if volume else box for box in boxes),
            masks=self._masks(record, volume),
            groups={**self._groups(group), **{name: words[name] for name in GROUPS}},
            licence=words["licence"] or self.config.licence or "",
        )

    @staticmethod
    def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
        columns = rows[0]["groups"]
        return {
            name: _agreed([found for row in rows if (found := word(row["groups"].get(name, ""), name, 256))], name)
            for name in columns
        }

    def texts(self, record: Record) -> str:
        """Return the report that the rows of an image state, "" for none; raises CellError."""
        rows, columns = record.data["rows"], record.data["columns"]
        return "\n".join(dict.fromkeys(found for row in rows if (found := _report(row, columns))))

    def labels(self, record: Record) -> dict[str, int]:
        """Return the labels that the rows of an image state; raises CellError."""
        data = record.data
        classes = self._tables[data["table"]].classes
        stated: dict[str, int] = {}
        for row in data["rows"]:
            for column, cell in row["labels"].items():
                cell = structure(cell)
                if column in classes and not absent(cell):
                    found = _of_classes(cell, classes[column], column)
                else:
                    found = cell_labels(cell, column, column in data["values"] or len(row["labels"]) > 1)
                for name, value in found.items():
                    if stated.setdefault(name, value) != value:
                        raise CellError("conflicting_rows", f"the rows of this image say 1 and 0 of label {name!r}")
        return {**dict.fromkeys(data["names"], 0), **stated} if stated else {}

    def _image(self, record: Record) -> Path | bytes:
        data = record.data
        row, columns, table = data["rows"][0], data["columns"], self._tables[data["table"]]
        field_name = "bytes" if "bytes" in columns else "image"
        value = row[field_name]
        if absent(value):
            value = table.cell(data["number"], columns[field_name])
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path") or ""
        if isinstance(value, bytes):
            return value
        if absent(value):
            raise Reject("image_missing", "the row names no image")
        if not isinstance(value, str):
            raise Reject("bad_row", f"column {columns[field_name]!r}: expected an image, found {describe(value)}")
        if field_name == "bytes":
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise Reject("image_unreadable", f"column {columns['bytes']!r} is not base64") from None
        return self.image(value, value.replace("\\", "/"), root=table.folder)

    def _masks(self, record: Record, volume: Volume | None) -> dict[str, bytes]:
        data = record.data
        column, folder = data["columns"].get("masks", "masks"), self._tables[data["table"]].folder
        found: dict[str, tuple[Path, str]] = {}
        for row in data["rows"]:
            value = structure(row.get("masks", ""))
            if absent(value):
                continue
            if isinstance(value, str):
                value = {column: value}
            if not isinstance(value, Mapping) or not all(
                isinstance(path, str) or absent(path) for path in value.values()
            ):
                raise CellError("bad_mask", f"column {column!r}: expected a path, or a mapping from names to paths")
            for name, path in value.items():
                if not absent(path):
                    names = (path,) if volume is None else (path.rpartition("#")[0] or path, path)
                    found[str(name)] = self.image(*names, root=folder), path
        if volume is None:
            return {name: read_regular(file) for name, (file, _) in found.items()}
        places: dict[Path, dict[str, str]] = {}
        for name, (file, path) in found.items():
            places.setdefault(file, {})[name] = path
        masks: dict[str, bytes] = {}
        for file, named in places.items():  # a file of several masks is read once
            masks |= masks_of(file, named, volume, self.volume_options)
        return masks


class _Row:
    """A row on its way to a record: its cells by field, its name (which makes its key), and its image's."""

    __slots__ = ("cells", "columns", "image", "is_path", "name", "number", "of_study", "split", "table")

    def __init__(
        self, place: int, number: int, cells: Row, columns: dict[str, str], unnamed: str, table: Table
    ) -> None:
        self.table, self.number, self.cells, self.columns, self.split = place, number, cells, columns, table.split
        image = cells.get("image", "")
        has_path = isinstance(image, str) and image.strip() and "bytes" not in cells
        path = path_name(f"{table.inside}/{image}" if table.inside else image) if has_path else ""
        try:
            key = identity(cells.get("key", ""), columns.get("key", "key"))
        except CellError:
            key = None
        self.is_path = key is None and bool(path)
        self.name = key or path or unnamed
        self.image = path or unnamed
        self.of_study: str | None = None
        """The study of a row that names one and no image."""


class _Scan:
    """What must be known of all rows before the first one is used."""

    def __init__(self, found: Iterable[_Row], names_wanted: bool) -> None:
        self.names, self.value_columns = Names(), set[str]()
        self._names: dict[str, set[str]] = {}
        self._of_study: dict[str, list[_Row]] = {}
        self._shown: set[str] = set()
        for row in found:
            if row.of_study is not None:
                self._of_study.setdefault(row.of_study, []).append(row)
            self.names.add(row.name, row.is_path, row.image)
            for column, cell in row.cells["labels"].items():
                self._look(column, cell, names_wanted)
        self.names.close()

    def _look(self, column: str, cell: Any, names_wanted: bool) -> None:
        if absent(cell):
            return
        try:
            cell = structure(cell)
            if is_value(cell):
                self.value_columns.add(column)
            elif names_wanted:
                known = self._names.setdefault(column, set())
                known.update(cell if isinstance(cell, Mapping) else names_in(cell, column=column))
        except CellError:
            return  # told when this row's own sample is made

    def of_study(self, group: list[_Row]) -> list[_Row]:
        """Return the rows without an image that are of the study of an image's rows."""
        study = _study(group[0].cells) if self._of_study and group[0].of_study is None else None
        if study not in self._of_study or study is None:
            return []
        self._shown.add(study)
        return self._of_study[study]

    def without_images(self) -> Iterator[_Row]:
        """Yield the rows of studies whose images are not there."""
        for study, rows in self._of_study.items():
            if study not in self._shown:
                yield from rows

    def label_names(self) -> list[str]:
        """Return every label of the tables: a column of values by its name, the others by what is in them."""
        stated = {name for column, known in self._names.items() if column not in self.value_columns for name in known}
        return sorted(stated | self.value_columns)


def _study(cells: Row) -> str | None:
    try:
        return identity(cells.get("study", ""), "study")
    except CellError:
        return None  # told when this row's own sample is made


def _agreed(found: list[str], column: str) -> str | None:
    """Return what all rows of an image say, None where none says anything; raises CellError where they differ."""
    if len(set(found)) > 1:
        raise CellError("conflicting_rows", f"the rows of this image differ in column {column!r}")
    return found[0] if found else None


def _report(row: Row, columns: Mapping[str, str]) -> str:
    whole = text(row.get("report", ""), columns.get("report", "report"))
    parts = [(name, text(row.get(name, ""), columns.get(name, name))) for name in ("findings", "impression")]
    named = [f"{name.upper()}: {part}" for name, part in parts if part.strip()]
    found = "\n".join([whole, *named] if whole else named)
    return found if found.strip() else ""


def _of_classes(cell: Any, names: Sequence[str], column: str) -> dict[str, int]:
    """Return the labels of a class number, or of a list of them; -1 says nothing; raises CellError."""
    numbers = list(cell) if isinstance(cell, (list, tuple)) else [cell]
    if not all(isinstance(number, int) and -1 <= number < len(names) for number in numbers):
        raise CellError("bad_label", f"column {column!r}: expected the number of a class below {len(names)}")
    if numbers == [-1]:
        return {}
    return {name: int(number in numbers) for number, name in enumerate(names)}
