"""The tables of a folder as the Hugging Face Hub distributes data sets: Parquet or CSV files, imagefolders, class folders.

Everything is read here, by this package: a folder of another person runs nothing, and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError
from vlp.core.registry import did_you_mean
from vlp.core.untrusted import shown, stays_inside
from vlp.data.tables.read import Row, columns_of

from .file_table import FileTable, Table
from .hub_card import Files, is_named, stated_files

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".gif"))
SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in a folder."""
_METADATA = re.compile(r"metadata\.(csv|jsonl|parquet)")
_TABLES = re.compile(r".*\.(parquet|csv|tsv|jsonl|ndjson|json)(\.gz)?")
_NO_TABLES = frozenset(("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"))
_SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def split_of(place: str) -> str | None:
    """Return the split that a relative path names in a folder or file, the innermost one, or None.

    As on the Hub: `train`, `validation`, `test` and their synonyms, set off by anything but letters.
    """
    for part in reversed(place.lower().split("/")):
        for split, words in _SPLITS.items():
            if re.search(rf"(?<![a-z])(?:{'|'.join(words)})(?![a-z])", part.replace("_", "-")):
                return split
    return None


def tables_of(place: Path, subset: str | None, encoding: str, separator: str | None) -> list[Table]:
    """Return the tables of a file or folder, in the order of their names; raises ConfigError.

    The card of a clone may say which files are of which split. Else a folder is an imagefolder where it holds
    `metadata.csv`, `.jsonl` or `.parquet`; a clone of a Hub repository where it holds Parquet files (or CSV, JSON lines);
    and a folder of classes where it holds images only.
    """
    if place.is_file():
        return [_table(place, place.parent, place.name, encoding, separator)]
    stated = stated_files(place, subset)
    if stated is not None:
        return _stated_tables(place, stated, encoding, separator)
    files = sorted(path for path in _walk(place) if subset is None or subset in path.relative_to(place).parts[:-1])
    found = _table_files(files)
    if found:
        if subset is None:
            _one_configuration(place, found)
        return [_table(path, path.parent, path.relative_to(place).as_posix(), encoding, separator) for path in found]
    images = [path for path in files if path.suffix.lower() in IMAGES]
    if images:
        return _class_folders(place, images, images)
    shown = f" for --subset {subset!r}" if subset else ""
    raise ConfigError(f"hf: {place} holds no tables and no images{shown}")


def _stated_tables(place: Path, stated: Files, encoding: str, separator: str | None) -> list[Table]:
    """Return the tables of the files that a card names, in the splits that it names; raises ConfigError."""
    files = {path.relative_to(place).as_posix(): path for path in sorted(_walk(place))}
    taken: dict[str, str | None] = {}
    found: list[Table] = []
    for split, patterns in stated:
        chosen = {name for pattern in patterns for name in files if is_named(name, pattern)}
        missing = next((pattern for pattern in patterns if not any(is_named(name, pattern) for name in chosen)), None)
        if missing is not None:
            raise ConfigError(f"hf: the card of {place} names {shown(missing)}: no such file is there")
        twice = next((name for name in sorted(chosen) if taken.get(name, split) != split), None)
        if twice is not None:
            raise ConfigError(f"hf: the card of {place} names {shown(twice)} in two splits: each file is of one")
        taken.update(dict.fromkeys(chosen, split))
        paths = [files[name] for name in sorted(chosen)]
        tables = _table_files(paths)
        named = None if split is None else _named_split(split)
        for path in tables:
            name = path.relative_to(place).as_posix()
            found.append(_table(path, path.parent, name, encoding, separator, named))
        images = [path for path in paths if path.suffix.lower() in IMAGES]
        if not tables and not images:
            words = f"what the card of {place} names for split {shown(split or 'all')}"
            raise ConfigError(f"hf: {words} is no table or image")
        if not tables:
            found += _class_folders(place, images, files.values(), named)
    return found


def _named_split(name: str) -> str:
    """Return the split that a card names: ours for a synonym, else its own name."""
    ours = next((split for split, words in _SPLITS.items() if name.lower() in words), None)
    return ours or re.sub(r"[^A-Za-z0-9_]", "_", name)[:100]


def _table_files(files: Sequence[Path]) -> list[Path]:
    """Return the tables of an imagefolder, else the Parquet files, else the other tables."""
    tables = [path for path in files if _TABLES.fullmatch(path.name.lower()) and path.name not in _NO_TABLES]
    metadata = [path for path in tables if _METADATA.fullmatch(path.name.lower())]
    return metadata or [path for path in tables if path.name.lower().endswith(".parquet")] or tables


def _walk(place: Path) -> Iterator[Path]:
    for path in place.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        if not hidden and path.is_file() and stays_inside(place, path):
            yield path


def _one_configuration(place: Path, found: Sequence[Path]) -> None:
    """Raise ConfigError where tables of several data sets lie side by side: which is meant?"""
    tops = {path.relative_to(place).parts[0] for path in found if path.parent != place}
    named = sorted(top for top in tops if top != "data" and split_of(top) is None)
    kinds = {tuple(sorted(columns_of(path))) for path in (sorted(found) if len(named) > 1 else [])}
    if len(named) > 1 and len(kinds) > 1:
        raise ConfigError(f"hf: {place} holds {', '.join(named)}, which differ in their columns: give --subset")


def _table(
    path: Path, folder: Path, place: str, encoding: str, separator: str | None, split: str | None = None
) -> FileTable:
    split = split or split_of(place)
    return FileTable(path, folder, split, f"{split or 'all'}_", encoding, separator, place.rpartition("/")[0])


class ClassFolders:
    """Images whose folder is their class, as a table of `image` and `label`."""

    columns: Sequence[str] = ("image", "label")

    def __init__(self, folder: Path, split: str | None, images: list[Path], classes: list[str]) -> None:
        self.name, self.folder, self.inside, self.split = str(folder), folder, "", split
        self.prefix = f"{split or 'all'}_"
        self.classes: Mapping[str, Sequence[str]] = {"label": classes}
        self._known = {name: number for number, name in enumerate(classes)}
        self._images = images

    def rows(self) -> Iterator[Row]:
        for path in self._images:
            label = self._known.get(path.parent.name, "")
            yield {"image": path.relative_to(self.folder).as_posix(), "label": label}

    def cell(self, number: int, column: str) -> Any:
        return ""


def _class_folders(place: Path, images: list[Path], files: Iterable[Path], named: str | None = None) -> list[Table]:
    """Return the images by split; the classes are the folders that any image of `files` lies in, those of splits apart."""
    folders = {path.parent for path in files if path.suffix.lower() in IMAGES and path.parent != place}
    classes = sorted({folder.name for folder in folders if split_of(folder.name) is None})
    by_split: dict[str | None, list[Path]] = {}
    for path in images:
        split = named or split_of(path.parent.relative_to(place).as_posix())
        by_split.setdefault(split, []).append(path)
    return [ClassFolders(place, split, paths, classes) for split, paths in by_split.items()]


def only_split(tables: list[Table], name: str | None) -> list[Table]:
    """Return the tables of one split, all of them for None; raises ConfigError for a split that there is not."""
    if name is None:
        return tables
    wanted = split_of(name) or name
    found = [table for table in tables if table.split in (name, wanted)]
    if not found:
        known = sorted({table.split or "all" for table in tables})
        raise ConfigError(f"hf: no split {name!r}{did_you_mean(name, known)} (has: {', '.join(known)})")
    return found
