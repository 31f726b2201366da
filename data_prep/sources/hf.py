"""Data sets of the Hugging Face Hub: a clone, an imagefolder, a Parquet file, a folder of `save_to_disk`, or a name.

    vlp-prep build hf --dataset ./saved --map image=image report=text --out DIR
    vlp-prep build hf --dataset flaviagiammarino/vqa-rad --split-name train --map image=image captions=question --out DIR

Images may be encoded (the library's Image feature), bytes, or paths below the table's folder. Clones, imagefolders
(`metadata.csv`, `.jsonl`, `.parquet`) and single tables are read by this package; a data set by name is fetched by the
`datasets` library, or taken from its cache when offline. Nothing that they bring is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.data.tables.cells import absent
from vlp.data.tables.read import Row
from vlp.sample import Sample

from ..readers.file_table import Table
from ..readers.hub_folder import SAVED, only_split, tables_of
from .base import Record, sources
from .table import TableConfig, TableSource


@sources.register("hf")
class HuggingFace(TableSource):
    name = "hf"
    licence = "that of the data set"
    needs_raw = False

    @config
    class Config(TableConfig):
        """`dataset`: a folder, a Parquet file or a name; `subset` its configuration; `split_name` one split only.

        `map`: field to column; a field that is not mapped takes the column of its own name. A column of class numbers
        gives the name of the class as label. `encoding`, `separator` (of a CSV), `closed_labels` and `box_format` as in
        `pairs`.
        """

        dataset: str
        subset: str | None = None
        split_name: str | None = None

    def find_tables(self) -> list[Table]:
        place = Path(self.config.dataset)
        if place.exists() and not any((place / name).is_file() for name in SAVED):
            found = tables_of(place, self.config.subset, self.config.encoding, self.config.separator)
        else:
            found = [DatasetTable(name, table, place) for name, table in self._load(place).items()]
        return only_split(found, self.config.split_name)

    def _load(self, place: Path) -> dict[str, Any]:
        import datasets

        try:
            if place.exists():
                found = datasets.load_from_disk(str(place))
            else:
                found = datasets.load_dataset(self.config.dataset, self.config.subset)
        except (FileNotFoundError, ValueError, ConnectionError, OSError) as error:
            raise ConfigError(f"hf: cannot load {self.config.dataset!r}: {error}") from None
        return dict(found) if isinstance(found, dict) else {"all": found}

    def sample(self, record: Record) -> Sample:
        from dataclasses import replace

        named = "/" in self.config.dataset and not Path(self.config.dataset).exists()
        return replace(super().sample(record), source=self.config.dataset if named else self.name)


class DatasetTable:
    """A split of the `datasets` library; images stay encoded."""

    def __init__(self, split: str, table: Any, place: Path) -> None:
        self.name, self.folder, self.inside, self.prefix = f"split {split} of {place}", place, "", f"{split}_"
        self.split = None if split == "all" else split
        self._table = _undecoded(table)
        self.columns: Sequence[str] = list(table.column_names)
        self.classes: Mapping[str, Sequence[str]] = {
            name: names for name, feature in table.features.items() if (names := _class_names(feature))
        }
        self._heavy = [name for name, feature in self._table.features.items() if _is_heavy(feature)]

    def rows(self) -> Iterator[Row]:
        light = [name for name in self.columns if name not in self._heavy]
        empty = dict.fromkeys(self._heavy, "")
        for row in self._table.select_columns(light) if light else ({} for _ in range(len(self._table))):
            yield {name: "" if absent(value) else value for name, value in {**row, **empty}.items()}

    def cell(self, number: int, column: str) -> Any:
        return self._table[number][column]


def _undecoded(table: Any) -> Any:
    """Return a data set whose Image columns give `{bytes, path}` instead of decoded pictures."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _is_heavy(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _class_names(feature: Any) -> list[str] | None:
    """Return the names of a column of class numbers, or of lists of them."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return list(names) if names else None
