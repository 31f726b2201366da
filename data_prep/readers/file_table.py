"""A table of a set, in a file or elsewhere: its rows, and its heavy cells one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


class FileTable:
    """A table in a file."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        split: str | None = None,
        prefix: str = "row",
        encoding: str = "utf-8",
        separator: str | None = None,
        inside: str = "",
    ) -> None:
        self.name, self.folder, self.inside, self.split, self.prefix = str(path), folder, inside, split, prefix
        self._path, self._encoding, self._separator = path, encoding, separator

    @cached_property
    def columns(self) -> Sequence[str]:
        return columns_of(self._path, self._encoding, self._separator)

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return class_names(self._path) if table_kind(self._path) == "parquet" else {}

    def rows(self) -> Iterator[Row]:
        return rows(self._path, (), self._encoding, skip_bytes=True, separator=self._separator)

    def cell(self, number: int, column: str) -> Any:
        return row_at(self._path, number, column) if table_kind(self._path) == "parquet" else ""
