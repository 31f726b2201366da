"""A table of a set, in a file or elsewhere: its rows, and its heavy cells one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from vlp.data.tables.parquet import class_names, row_at
from vlp.data.tables.read import Row, columns_of, rows, table_kind


class Table(Protocol):
    """A table of a set: rows without their heavy cells (images), which `cell` reads one at a time.

    `folder` is where the paths in it begin, `inside` its path below that of the whole set, `classes` names the numbers of
    a column, `prefix` begins the keys of rows without a name.
    """

    name: str
    folder: Path
    inside: str
    split: str | None
    prefix: str

    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def classes(self) -> Mapping[str, Sequence[str]]: ...
    def rows(self) -> Iterator[Row]: ...
    def cell(self, number: int, column: str) -> Any: ...


@dataclass
class FileTable:
    """A table in a file."""

    path: Path
    folder: Path
    split: str | None = None
    prefix: str = "row"
    encoding: str = "utf-8"
    separator: str | None = None
    inside: str = ""

    def __post_init__(self) -> None:
        self.name = str(self.path)

    @cached_property
    def columns(self) -> Sequence[str]:
        return columns_of(self.path, self.encoding, self.separator)

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return class_names(self.path) if table_kind(self.path) == "parquet" else {}

    def rows(self) -> Iterator[Row]:
        return rows(self.path, (), self.encoding, skip_bytes=True, separator=self.separator)

    def cell(self, number: int, column: str) -> Any:
        return row_at(self.path, number, column) if table_kind(self.path) == "parquet" else ""
