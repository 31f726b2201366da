"""Read tables row by row, whatever they are stored as: CSV, TSV, JSON, JSON lines or Parquet, plain or gzipped.

Rows come one at a time, so that memory does not grow with the table. The fields are the union over the rows: a row that
leaves a field out has "" there. A cell that means "nothing" becomes "" here, once, for every reader. Neither the encoding
nor the separator is guessed: what looks wrong is named in the error, with the option to give.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vlp.core.registry import did_you_mean
from vlp.core.untrusted import open_gzip, open_regular, unique_pairs

from .cells import TableError as TableError
from .cells import absent, describe
from .parquet import column_names, parquet_rows

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]
MAX_CELL = 64 * 1024 * 1024
MAX_JSON = 1 << 30
SEPARATORS = (",", ";", "\t", "|")
KINDS = {"ndjson": "jsonl", "pq": "parquet", **{kind: kind for kind in ("csv", "tsv", "jsonl", "json", "parquet")}}
SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_BINARY = ((b"PK\x03\x04", "a spreadsheet or zip"), (b"\xd0\xcf\x11\xe0", "a spreadsheet"), (b"PAR1", "Parquet"))


def rows(
    path: Path,
    required: Iterable[str] = (),
    encoding: str = "utf-8",
    skip_bytes: bool = False,
    separator: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a table as dictionaries of equal keys; CSV cells are strings, others keep their type.

    `skip_bytes` leaves the cells of a Parquet table's columns of bytes (images) unread, as "": see `row_at`. `separator`
    of a CSV, where it is not that of its ending. Raises TableError for a missing file, a column that no row has (with
    the nearest name), a wrong encoding or broken syntax, with the line where there is one.
    """
    for _, row in numbered_rows(path, required, encoding, skip_bytes, separator):
        yield row


def numbered_rows(
    path: Path,
    required: Iterable[str] = (),
    encoding: str = "utf-8",
    skip_bytes: bool = False,
    separator: str | None = None,
) -> Numbered:
    """Yield (line or row number, row) as `rows` does: the line on which a row begins, counted from 1."""
    kind = table_kind(path)
    columns = columns_of(path, encoding, separator)
    for column in required:
        if column not in columns:
            raise TableError(f"{path}: no column {column!r}{did_you_mean(column, columns)}")
    empty = dict.fromkeys(columns, "")
    with _explained(path, encoding):
        for number, row in _reader(kind, path, encoding, skip_bytes, separator):
            filled = {**empty, **row} if len(row) != len(empty) else row
            yield number, {name: "" if absent(value) else value for name, value in filled.items()}


def columns_of(path: Path, encoding: str = "utf-8", separator: str | None = None) -> list[str]:
    """Return the names of all fields of a table, in the order in which they first occur; raises TableError."""
    kind = table_kind(path)
    with _explained(path, encoding):
        if kind == "parquet":
            return _once(path, column_names(path))
        if kind in ("csv", "tsv"):
            with open_text(path, encoding) as file:
                return [name for name in _csv_reader(path, file, kind, separator)[1] if name]
        found: dict[str, None] = {}
        for _, row in _reader(kind, path, encoding, False, None):
            found.update(dict.fromkeys(row))
        return list(found)


def table_kind(path: Path) -> str:
    """Return csv, tsv, jsonl, json or parquet by the file's ending; raises TableError for another."""
    ending = Path(path.name.lower().removesuffix(".gz")).suffix[1:]
    if ending not in KINDS:
        raise TableError(f"{path}: expected a table ending in .csv, .tsv, .jsonl, .json or .parquet (.gz allowed)")
    return KINDS[ending]


def open_text(path: Path, encoding: str = "utf-8") -> IO[str]:
    """Open a text file for reading, gzipped or not; a byte order mark is obeyed; line ends are left for `csv`.

    Raises TableError for what is no regular file or no text.
    """
    opener: Callable[[Path], Any] = open_gzip if path.name.lower().endswith(".gz") else open_regular
    with opener(path) as file:
        head = file.read(4096)
    encoding = _encoding_of(path, head, encoding)
    return io.TextIOWrapper(opener(path), encoding=encoding, newline="")


def _encoding_of(path: Path, head: bytes, encoding: str) -> str:
    """Return the encoding to read a file with: a byte order mark is a statement, zero bytes are not UTF-8."""
    plain = encoding.lower().replace("_", "-")
    for mark, named in _MARKS:
        if head.startswith(mark):
            if plain in ("utf-8", "utf8", named) or plain.startswith(named.removesuffix("-sig")):
                return named
            raise TableError(f"{path} begins with the mark of {named}, not of {encoding}: leave --encoding out")
    found = next((what for magic, what in _BINARY if head.startswith(magic)), "")
    if found:
        raise TableError(f"{path} is {found}: give it the ending that it has, or save it as CSV")
    if head.startswith(b"\x1f\x8b"):
        raise TableError(f"{path} is gzipped: its name must end in .gz")
    if b"\0" in head and not plain.startswith(("utf-16", "utf16", "utf-32", "utf32")):
        order = "le" if head[1:2] == b"\0" else "be"
        raise TableError(f"{path} holds zero bytes, as UTF-16 without a mark does: give --encoding utf-16-{order}")
    return encoding


@contextmanager
def _explained(path: Path, encoding: str) -> Iterator[None]:
    """Turn what reading a file can raise into a TableError."""
    try:
        yield
    except FileNotFoundError:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise TableError(f"no such table: {path}{near}") from None
    except UnicodeDecodeError as error:
        raise TableError(_advice(path, encoding, error)) from None
    except LookupError as error:
        if "encoding" not in str(error):
            raise
        raise TableError(f"--encoding {encoding!r} is no encoding (utf-8, cp1252, utf-16, ...)") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}") from None


def _advice(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    """Return which byte is wrong and which encoding to try: Windows wrote it unless a byte says that it did not."""
    byte = error.object[error.start]
    undefined = {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    advice = "latin-1" if undefined & {other for other in error.object if 0x80 <= other < 0xA0} else "cp1252"
    return (
        f"{path} is not {encoding} (byte 0x{byte:02x}): give --encoding, for example --encoding {advice} (Windows, "
        "Western Europe) if that is what wrote it"
    )


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a text, each of a bounded length and without the control characters of a wrong encoding."""
    number = 0
    single_byte = (getattr(file, "encoding", "") or "").lower().replace("_", "-") in ("latin-1", "iso-8859-1", "latin1")
    while line := file.readline(MAX_CELL + 1):
        number += 1
        if len(line) > MAX_CELL:
            raise TableError(f"{path}, line {number}: longer than {MAX_CELL} characters")
        if single_byte and any("\x80" <= letter < "\xa0" for letter in line):
            raise TableError(f"{path}, line {number}: in latin-1 these are control characters: give --encoding cp1252")
        yield line


def _reader(kind: str, path: Path, encoding: str, skip_bytes: bool, separator: str | None) -> Numbered:
    if kind == "parquet":
        return parquet_rows(path, skip_bytes)
    if kind == "json":
        return _json(path, encoding)
    return _jsonl(path, encoding) if kind == "jsonl" else _csv(path, kind, encoding, separator)


def _once(path: Path, columns: list[str]) -> list[str]:
    """Return the columns; raises TableError when one occurs twice: which of them is meant?"""
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise TableError(f"{path}: column {', '.join(map(repr, twice))} occurs twice: rename or remove one of them")
    return columns


def _separator(path: Path, kind: str, given: str | None, header: str) -> str:
    """Return what separates the cells of a CSV; raises TableError where the header looks like another one's."""
    if given is not None:
        found = SPELLED.get(given.lower(), given)
        if len(found) != 1 or found in '"\r\n':
            raise TableError(f"--separator {given!r}: expected one character (or tab)")
        return found
    usual = "\t" if kind == "tsv" else ","
    counts = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in SEPARATORS}
    best = max(SEPARATORS, key=lambda mark: (counts[mark], mark == usual))
    if counts[best] > counts[usual]:
        shown = "tab" if best == "\t" else best
        raise TableError(
            f"{path}: the header {header.strip()[:200]!r} is separated by {shown!r}, not by {usual!r}: "
            f"give --separator {shown!r}"
        )
    return usual


def _csv_reader(path: Path, file: IO[str], kind: str, separator: str | None) -> tuple[Any, list[str]]:
    """Return a reader of the rows of a CSV, and its columns; raises TableError."""
    csv.field_size_limit(MAX_CELL)
    lines = _lines(path, file)
    first = next(lines, "")
    mark = _separator(path, kind, separator, first)
    reader = csv.reader(itertools.chain([first] if first else [], lines), delimiter=mark, strict=True)
    try:
        columns = _once(path, [name.strip() for name in next(reader, [])])
    except csv.Error as error:
        raise TableError(f"{path}, line 1: {error}") from None
    if not any(columns):
        raise TableError(f"{path}: its first line must name the columns")
    return reader, columns


def _csv(path: Path, kind: str, encoding: str, separator: str | None) -> Numbered:
    with open_text(path, encoding) as file:
        reader, columns = _csv_reader(path, file, kind, separator)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                place = f"line {reader.line_num}" if reader.line_num <= line else f"the row that begins in line {line}"
                raise TableError(f"{path}, {place}: {error} (is a quote missing, or not doubled?)") from None
            if not cells:
                continue  # an empty line
            if len(cells) != len(columns):
                raise TableError(
                    f"{path}, line {line}: {len(cells)} cells, the header has {len(columns)} columns "
                    "(a separator or quote too many or too few?)"
                )
            yield line, {name: value for name, value in zip(columns, cells, strict=True) if name}


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_pairs)
    except json.JSONDecodeError as error:
        place = f" at line {error.lineno}" if error.lineno > 1 else ""
        raise TableError(f"{where}: not JSON: {error.msg}{place}, in {len(text.strip())} characters") from None
    except RecursionError:
        raise TableError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise TableError(f"{where}: {error}") from None


def _jsonl(path: Path, encoding: str) -> Numbered:
    with open_text(path, encoding) as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if line.strip():
                row = _parse(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise TableError(f"{path}, line {number}: expected a JSON object, found {describe(row)}")
                yield number, row


def _json(path: Path, encoding: str) -> Numbered:
    with open_text(path, encoding) as file:
        text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise TableError(f"{path}: more than {MAX_JSON} characters of JSON: store it as JSON lines")
    tree = _parse(text, str(path))
    if not isinstance(tree, list):
        raise TableError(f"{path}: expected a list of objects, found {describe(tree)}")
    for number, row in enumerate(tree, start=1):
        if not isinstance(row, dict):
            raise TableError(f"{path}, row {number}: expected an object, found {describe(row)}")
        yield number, row
