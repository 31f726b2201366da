"""Any data set of the Hugging Face `datasets` library, saved on disk or by name, with a mapping from fields to its columns.

    vlp-prep build hf --dataset ./saved --map image=image report=text --out DIR
    vlp-prep build hf --dataset flaviagiammarino/vqa-rad --split-name train --map image=image captions=question --out DIR

Images may be encoded (the library's Image feature), bytes, or paths. A data set by name is fetched by the library, or taken
from its cache when offline; nothing that it brings is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from vlp.config import config
from vlp.registry import did_you_mean
from vlp.types import Box, Report, Sample

from ..labels import from_columns, is_value, names_in, parse_boxes
from .base import Record, Reject, Source, SourceError, safe_key, sources

FIELDS = ("key", "image", "report", "findings", "impression", "captions", "labels", "boxes", "patient", "study", "view")


@sources.register("hf")
class HuggingFace(Source):
    name = "hf"
    licence = "that of the data set"
    needs_raw = False

    @config
    class Config:
        """`dataset`: a folder of `save_to_disk`, or a name; `subset` its configuration; `split_name` one split only.

        `map`: field to column; a field that is not mapped takes the column of its own name. A column of class numbers
        gives the name of the class as label.
        """

        dataset: str
        subset: str | None = None
        split_name: str | None = None
        map: dict[str, str] = field(default_factory=dict)
        modality: str | None = None
        licence: str = ""

    def __init__(self, raw: Path | None, config: Any, follow_links: bool = False) -> None:
        super().__init__(raw, config, follow_links)
        self._opened: dict[str, Any] | None = None

    def _splits(self) -> dict[str, Any]:
        """Return the splits by name, images left encoded; raises SourceError."""
        if self._opened is None:
            self._opened = {name: _undecoded(one) for name, one in self._load().items()}
        return self._opened

    def _load(self) -> dict[str, Any]:
        import datasets

        config = self.config
        try:
            if Path(config.dataset).is_dir() and not any(Path(config.dataset).glob("*.parquet")):
                found = datasets.load_from_disk(config.dataset)
            else:
                found = datasets.load_dataset(config.dataset, config.subset)
        except (FileNotFoundError, ValueError, ConnectionError, OSError) as error:
            raise SourceError(f"hf: cannot load {config.dataset!r}: {error}") from None
        splits = dict(found) if isinstance(found, dict) else {"all": found}
        if config.split_name is not None:
            if config.split_name not in splits:
                raise SourceError(f"hf: no split {config.split_name!r}{did_you_mean(config.split_name, splits)}")
            splits = {config.split_name: splits[config.split_name]}
        return splits

    def _columns(self, table: Any) -> dict[str, str]:
        for name, column in self.config.map.items():
            if name not in FIELDS:
                raise SourceError(f"--map {name}={column}: no field {name!r}{did_you_mean(name, FIELDS)}")
            if column not in table.column_names:
                known = did_you_mean(column, table.column_names)
                raise SourceError(f"--map {name}={column}: {self.config.dataset} has no column {column!r}{known}")
        columns = {name: name for name in FIELDS if name in table.column_names} | dict(self.config.map)
        if "image" not in columns:
            raise SourceError(f"hf: which column holds the image? has: {', '.join(table.column_names)}")
        return columns

    def records(self) -> Iterator[Record]:
        for split, table in self._splits().items():
            columns = self._columns(table)
            light = [columns[name] for name in ("key", "patient", "study") if name in columns]
            small = table.select_columns(light) if light else None
            for number in range(len(table)):
                row = small[number] if small is not None else {}
                known = {name: str(row[columns[name]]) for name in ("key", "patient", "study") if name in columns}
                yield Record(
                    key=safe_key(known.get("key") or f"{split}_{number:08d}"),
                    patient=known.get("patient"),
                    study=known.get("study"),
                    split=None if split == "all" else split,
                    data={"split": split, "row": number, "columns": columns},
                )

    def sample(self, record: Record) -> Sample:
        table, columns = self._splits()[record.data["split"]], record.data["columns"]
        row = table[record.data["row"]]
        value = {name: row[column] for name, column in columns.items()}
        captions = value.get("captions") or ()
        boxes = parse_boxes(value.get("boxes") or "")
        return Sample(
            key=record.key,
            image=self._image(value["image"]),
            report=_report(value),
            captions=(captions,) if isinstance(captions, str) else tuple(str(one) for one in captions),
            study=record.study,
            patient=record.patient,
            modality=self.config.modality,
            view=value.get("view"),
            labels=_labels(value.get("labels"), columns.get("labels", ""), table),
            boxes=tuple(Box(phrase, place) for phrase, place in boxes),
            source=self.config.dataset
            if "/" in self.config.dataset and not Path(self.config.dataset).exists()
            else "hf",
            licence=self.config.licence,
        )

    def _image(self, value: Any) -> Path | bytes:
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not value:
            raise Reject("image_missing", "the row holds no image")
        path = Path(str(value))
        if path.is_absolute() and Path(self.config.dataset).is_dir():
            return self.path(path, Path(self.config.dataset))
        return self.image(str(value))


def _undecoded(table: Any) -> Any:
    """Return a data set whose Image columns give `{bytes, path}` instead of decoded pictures."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _report(value: dict[str, Any]) -> Report | None:
    parts = [str(value.get("report") or "")]
    parts += [f"{name.upper()}: {value[name]}" for name in ("findings", "impression") if value.get(name)]
    text = "\n".join(part for part in parts if part.strip())
    return Report(text) if text else None


def _labels(value: Any, column: str, table: Any) -> dict[str, int]:
    """Return the labels of a cell: a class number by its name, a mapping, a value of a label, or names."""
    if value is None or value == "":
        return {}
    feature = table.features.get(column)
    names = getattr(feature, "names", None)
    if names and isinstance(value, int):
        return {name: int(number == value) for number, name in enumerate(names)} if value >= 0 else {}
    inner = getattr(getattr(feature, "feature", None), "names", None)
    if inner and isinstance(value, list):
        return {name: int(number in value) for number, name in enumerate(inner)}
    if isinstance(value, dict):
        return from_columns(value, value)
    if is_value(value):
        return from_columns({column: value}, [column])
    return dict.fromkeys(names_in(value), 1)
