"""Your own image-report pairs: a CSV, TSV, JSON, JSON lines or Parquet table and a mapping from fields to its columns.

    vlp-prep build pairs --raw DIR --table pairs.csv --map image=path report=text patient=mrn --out DIR

A field that is not mapped takes the column of its own name, if there is one. Images are paths below the raw folder (JPEG,
PNG, TIFF, DICOM, ...) or bytes in the table (Parquet; base64 in text tables, field `bytes`). Rows of one image are one
sample with all their texts.
"""

from __future__ import annotations

from pathlib import Path

from vlp.core.config import ConfigError, config
from vlp.data.tables.read import table_kind
from vlp.modalities.volume.read import is_volume_file

from ..readers.file_table import FileTable, Table
from .base import sources
from .table import TableConfig, TableSource

TABLES = ("pairs", "metadata", "data", "train")


@sources.register("pairs")
class Pairs(TableSource):
    name = "pairs"
    licence = "your own"

    @config
    class Config(TableConfig):
        __doc__ = TableConfig.__doc__

        table: str | None = None

    def find_tables(self) -> list[Table]:
        if self.config.table:
            path = self.path(self.config.table)
        else:
            found = [path for stem in TABLES for path in sorted(self.raw.glob(f"{stem}.*")) if path.is_file()]
            if not found:
                raise ConfigError(
                    f"pairs: no table in {self.raw}: give --table, the name of a CSV, JSONL or Parquet in it"
                )
            path = found[0]
        return [FileTable(path, self.raw, encoding=self.config.encoding, separator=self.config.separator)]

    def names_images(self, table: Table) -> bool:
        return table_kind(Path(table.name)) != "parquet"

    def holds_volumes(self) -> bool:
        first = next(self._rows(), None)
        return first is not None and is_volume_file(Path(first.image))
