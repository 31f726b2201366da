"""Parquet tables of others, row by row: memory does not grow with the table, whatever its few bytes stand for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlp.core.untrusted import read_regular

from .cells import TableError

LISTS, BYTES = ("list", "large_list", "map"), ("binary", "large_binary")
MAX_COLUMN = 8 << 30
MAX_BATCH = 1 << 30
"""The most bytes that the rows of a Parquet table take that are unpacked at once."""
MAX_NESTED = 1 << 27
"""The most values in the lists of a column of a row group: nulls take no room in the file, but do in memory."""


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a table; raises TableError."""
    with _parquet_file(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(path: Path, skip_bytes: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) of a table, counted from 1; cells of bytes are "" with `skip_bytes`. Raises TableError."""
    with _parquet_file(path) as file:
        names = file.schema_arrow.names
        heavy = [name for name in names if skip_bytes and _holds(file.schema_arrow.field(name).type, BYTES)]
        number = 0
        for batch in _batches(path, file, [name for name in names if name not in heavy], range(file.num_row_groups)):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for at in range(batch.num_rows):
                number += 1
                row = {name: column[at].as_py() for name, column in columns.items()}
                yield number, {**row, **dict.fromkeys(heavy, "")}


def _batches(path: Path, file: Any, columns: list[str], groups: Iterable[int]) -> Iterator[Any]:
    """Yield a Parquet file's rows, as many at a time as memory holds though each were as large as its column.

    A value that is stored once may be that of any number of rows. Raises TableError.
    """
    for group in groups:
        about = file.metadata.row_group(group)
        sizes = (about.column(place).total_uncompressed_size for place in range(about.num_columns))
        size = max(1, min(256, MAX_BATCH // max([1, *sizes])))
        for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=columns):
            nested = [column for column in batch.columns if _holds(column.type, LISTS)]
            if sum(_unpacked_size(column) for column in nested) > MAX_BATCH:
                raise TableError(f"{path}: the lists of {batch.num_rows} rows unpack to more than {MAX_BATCH} bytes")
            yield batch


def _holds(kind: Any, sorts: tuple[str, ...]) -> bool:
    """Return whether a column, or a field of its structures (`{bytes, path}`), is of one of pyarrow's sorts."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_holds(kind.field(position).type, sorts) for position in range(kind.num_fields))
    return any(getattr(pa.types, f"is_{sort}")(kind) for sort in sorts)


def _unpacked_size(column: Any) -> int:
    """Return how many bytes the texts of a column take once each is written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(column.indices)).as_py() or 0)
    if pa.types.is_map(column.type):
        return _unpacked_size(column.keys) + _unpacked_size(column.items)
    if _holds(column.type, LISTS) and not pa.types.is_struct(column.type):
        return _unpacked_size(column.flatten())
    if pa.types.is_struct(column.type):
        return sum(_unpacked_size(part) for part in column.flatten())
    return int(column.nbytes)


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.exists() and not path.is_file():
        raise TableError(f"{path} is no regular file")
    try:
        about = pq.read_metadata(path)
        _check_parquet(path, about)
        # values of lists stay in their dictionary: one of them may be written out any number of times
        columns = (about.schema.column(place) for place in range(about.num_columns))
        once = [
            column.path for column in columns if column.max_repetition_level and column.physical_type == "BYTE_ARRAY"
        ]
        return pq.ParquetFile(path, metadata=about, read_dictionary=once)
    except pa.ArrowInvalid as error:
        if path.stat().st_size < 1024 and read_regular(path).startswith(b"version https://git-lfs"):
            raise TableError(f"{path} is a pointer of Git LFS: fetch the file itself (git lfs pull)") from None
        raise TableError(f"{path} is not Parquet: {error}") from None


def _check_parquet(path: Path, about: Any) -> None:
    """Raise TableError where a column of a row group, which is unpacked at once, is larger than memory should hold."""
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        columns = [group.column(column) for column in range(group.num_columns)]
        sizes = [column.total_uncompressed_size for column in columns]
        if group.num_rows < 0 or not all(0 <= size <= MAX_COLUMN for size in sizes):
            raise TableError(f"{path}: a column of a row group says that it unpacks to more than {MAX_COLUMN} bytes")
        if any(column.num_values > max(MAX_NESTED, group.num_rows) for column in columns):
            raise TableError(f"{path}: the lists of a column of a row group hold more than {MAX_NESTED} values")


def class_names(path: Path) -> dict[str, list[str]]:
    """Return the names of the classes of a Parquet table's columns, as the datasets library notes them in its header."""
    with _parquet_file(path) as file:
        noted = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(noted)["info"]["features"]
        return {
            column: [str(name) for name in found]
            for column, feature in features.items()
            if isinstance(found := _names_of(feature), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _names_of(feature: Any) -> Any:
    inner = feature.get("feature", feature)
    return inner.get("names") if inner.get("_type") == "ClassLabel" else None


class _Cells:
    """The cells of a column of a Parquet table, one row after another: the batch that was read last is kept."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._file = _parquet_file(path)
        about = self._file.metadata
        sizes = (about.row_group(group).num_rows for group in range(self._file.num_row_groups))
        self._starts = [0, *itertools.accumulate(sizes)]
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._group, self._first = -1, 0

    def at(self, number: int) -> Any:
        """Return the cell of a row; rows that follow one another cost nothing more."""
        group = next((group for group, rows in enumerate(self._starts[1:]) if number < rows), None)
        if group is None:
            raise IndexError(f"{self._path} has no row {number}")
        number -= self._starts[group]
        if group != self._group or number < self._first:
            self._batches = _batches(self._path, self._file, [self._column], [group])
            self._group, self._first, self._batch = group, 0, next(self._batches)
        while number >= self._first + self._batch.num_rows:
            self._first += self._batch.num_rows
            self._batch = next(self._batches)
        return self._batch.column(0)[number - self._first].as_py()


@lru_cache(maxsize=1)
def _cells(path: Path, column: str) -> _Cells:
    return _Cells(path, column)


def row_at(path: Path, number: int, column: str) -> Any:
    """Return one cell of a Parquet table; the rows behind the one that was asked for last are near."""
    return _cells(path, column).at(number)
