"""Spreadsheets (.xlsx) as tables: the first sheet, its first row naming the columns, values only."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from vlp.core.untrusted import open_regular
from vlp.data.tables.read import Row, TableError

MAX_UNPACKED = 1 << 30


def sheet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a spreadsheet as `rows` does those of a CSV; raises TableError."""
    try:
        import openpyxl
    except ImportError:
        raise TableError(
            f"{path}: reading .xlsx needs openpyxl: install vlp[volume], or save the sheet as CSV"
        ) from None
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_UNPACKED:
                raise TableError(f"{path} unpacks to {size} bytes: save the sheet as CSV")
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            cells = book.worksheets[0].iter_rows(values_only=True)
            columns = [str(name or "").strip() for name in next(cells, ())]
            for row in cells:
                yield {name: "" if cell is None else cell for name, cell in zip(columns, row, strict=False) if name}
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise TableError(
            f"{path} is no spreadsheet that can be read ({type(error).__name__}): save it as CSV"
        ) from None
