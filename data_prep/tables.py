"""Read tables row by row, whatever they are stored as: CSV, TSV, JSON, JSON lines or Parquet, plain or gzipped.

Rows come one at a time, so that memory does not grow with the table. A cell that means "nothing" (None, NaN, an empty
string) becomes "" here, once, for every source. The encoding is never guessed.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from vlp.registry import did_you_mean

from .sources.base import SourceError

Row = dict[str, Any]
MAX_CELL = 64 * 1024 * 1024


def rows(path: Path, required: Iterable[str] = (), encoding: str = "utf-8", skip_bytes: bool = False) -> Iterator[Row]:
    """Yield the rows of a table as dictionaries; CSV cells are strings, others keep their type.

    `skip_bytes` leaves the cells of a Parquet table's columns of bytes (images) unread, as "": see `row_at`.

    Raises SourceError for a missing file, a missing column (with the nearest name), a wrong encoding or broken syntax,
    with the line where there is one.
    """
    kind = table_kind(path)
    reader = {"csv": _csv, "tsv": _csv, "jsonl": _jsonl, "json": _json, "parquet": _jsonl}[kind]
    wanted = list(required)
    try:
        found = _parquet(path, skip_bytes) if kind == "parquet" else reader(path, encoding)
        for number, row in enumerate(found):
            if number == 0 or kind not in ("csv", "tsv", "parquet"):
                for column in wanted:
                    if column not in row:
                        raise SourceError(f"{path}: no column {column!r}{did_you_mean(column, row)}")
            yield {name: "" if _nothing(value) else value for name, value in row.items()}
    except FileNotFoundError:
        near = did_you_mean(path.name, [one.name for one in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise SourceError(f"no such table: {path}{near}") from None
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not {encoding} (byte 0x{error.object[error.start]:02x} in {_near(error)!r}): give --encoding, "
            "for example --encoding latin-1"
        ) from None
    except (csv.Error, json.JSONDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None


def _near(error: UnicodeDecodeError) -> str:
    """Return a few characters around the byte that could not be decoded, to look for in an editor."""
    around = error.object[max(0, error.start - 12) : error.start + 8]
    return " ".join(around.decode("ascii", "replace").split())


def table_kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for ending, kind in (
        (".csv", "csv"),
        (".tsv", "tsv"),
        (".jsonl", "jsonl"),
        (".ndjson", "jsonl"),
        (".json", "json"),
    ):
        if name.endswith(ending):
            return kind
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    raise SourceError(f"{path}: expected a table ending in .csv, .tsv, .jsonl, .json or .parquet (.gz allowed)")


def _nothing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip() in ("", "nan", "NaN")


def open_text(path: Path, encoding: str = "utf-8") -> IO[str]:
    """Open a text file for reading, gzipped or not; a byte order mark is skipped; line ends are left for `csv`."""
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    if path.name.endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding=encoding, newline="")
    return open(path, encoding=encoding, newline="")


def _csv(path: Path, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL)
    with open_text(path, encoding) as file:
        reader = csv.DictReader(file, delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        for row in reader:
            if None in row:
                raise csv.Error(f"line {reader.line_num}: more cells than the {len(columns)} columns of the header")
            yield {name: value for name, value in row.items() if name}


def _jsonl(path: Path, encoding: str) -> Iterator[Row]:
    with open_text(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise SourceError(f"{path}:{number}: not JSON: {error.msg}") from None
                if not isinstance(row, dict):
                    raise SourceError(f"{path}:{number}: expected an object, found {type(row).__name__}")
                yield row


def _json(path: Path, encoding: str) -> Iterator[Row]:
    with open_text(path, encoding) as file:
        tree = json.load(file)
    if not isinstance(tree, list) or not all(isinstance(row, dict) for row in tree):
        raise SourceError(f"{path}: expected a list of objects")
    yield from tree


def _parquet(path: Path, skip_bytes: bool) -> Iterator[Row]:
    with _parquet_file(path) as file:
        heavy = [
            name for name in file.schema_arrow.names if skip_bytes and _is_bytes(file.schema_arrow.field(name).type)
        ]
        light = [name for name in file.schema_arrow.names if name not in heavy]
        for batch in file.iter_batches(batch_size=256, columns=light):
            for row in batch.to_pylist():
                yield {**row, **dict.fromkeys(heavy, "")}


def _is_bytes(kind: Any) -> bool:
    """Return whether a column holds bytes, or `{bytes, path}` as the datasets library stores images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(_is_bytes(kind.field(position).type) for position in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not Parquet: {error}") from None


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int, column: str) -> list[Any]:
    with _parquet_file(path) as file:
        values: list[Any] = file.read_row_group(group, columns=[column]).column(column).to_pylist()
    return values


def row_at(path: Path, number: int, column: str) -> Any:
    """Return one cell of a Parquet table; neighbouring rows cost nothing more, the last row group is kept."""
    with _parquet_file(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if number < size:
                return _row_group(path, group, column)[number]
            number -= size
    raise IndexError(f"{path} has no row {number}")
