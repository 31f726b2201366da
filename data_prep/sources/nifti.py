"""A folder of volumes, .nii .nii.gz .mha .mhd .nrrd .nhdr in folders of any depth, and a table of reports if there is one.

    vlp-prep build nifti --raw DIR --table reports.csv --map study=exam report=text patient=mrn \\
        --names '(?P<study>(?P<patient>[^/]+)_\\d+)_\\d+' --masks lung='{folder}/{stem}_lung.nii.gz' --out DIR

A row of the table is of the volume that it names (a path below the folder, a file's name, or that without its ending), or,
where it names none, of all volumes of its study. What else a table may hold, boxes and masks with it, is as for `pairs`.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean
from vlp.data.tables.cells import CellError, absent
from vlp.data.tables.read import Row
from vlp.modalities.volume.read import ITK, NIFTI

from ..readers.file_table import FileTable, Table
from ..readers.studies import Shared
from .base import Record, sources
from .table import ALIASES, TableConfig, TableSource

ENDINGS = (*NIFTI, *ITK)
NAMED = ("patient", "study", "sequence", "split")
"""What the name of a file may tell."""


@sources.register("nifti")
class Nifti(TableSource):
    name = "nifti"
    licence = "your own"

    @config
    class Config(TableConfig):
        __doc__ = f"""{TableConfig.__doc__}
        `names`: a regular expression with groups called patient, study, sequence or split, looked for in the path of a volume
        below the folder, without its ending; a cell of the table holds before it. `masks`: the file of each mask by the path
        of its volume, `{{folder}}` and `{{stem}}` being its own; a mask that is not there is none. What such a pattern finds is
        no volume.
        """

        table: str | None = None
        names: str = ""
        masks: dict[str, str] = field(default_factory=dict)

    def find_tables(self) -> list[Table]:
        given = self.config.table and FileTable(
            self.path(self.config.table), self.raw, encoding=self.config.encoding, separator=self.config.separator
        )
        try:
            names = re.compile(self.config.names)
        except re.error as error:
            raise ConfigError(f"--names {self.config.names!r} is no regular expression: {error}") from None
        for name in names.groupindex:
            if name not in NAMED:
                raise ConfigError(f"--names: no field {name!r}{did_you_mean(name, NAMED)}: expected {', '.join(NAMED)}")
        for name, pattern in self.config.masks.items():
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise ConfigError(
                    f"--masks {name}={pattern}: expected a place below the folder, such as {{folder}}/{{stem}}-seg.nii"
                )
        found = _Volumes(self.raw, given or None, names, self.config.masks, dict(self.config.map))
        if not found.files:
            raise ConfigError(f"nifti: no volume below {self.raw}: expected files of {' '.join(ENDINGS)}")
        return [found]

    def names_images(self, table: Table) -> bool:
        return True

    def holds_volumes(self) -> bool:
        return True

    def records(self) -> Iterator[Record]:
        reports, labels = Shared("reports"), Shared("labels")
        for record in super().records():
            if record.study and "problem" not in record.data:
                with suppress(CellError):  # told when the sample is made
                    reports.add(record.study, self.texts(record), record.key)
                    labels.add(record.study, sorted(self.labels(record).items()), record.key)
            yield record
        reports.check(self.name)
        labels.check(self.name)


@dataclass
class _Volumes:
    """The files of a folder as a table: the rows of the table that was given, and one for each file that it does not name."""

    folder: Path
    table: FileTable | None
    pattern: re.Pattern[str]
    masks: Mapping[str, str]
    map: Mapping[str, str]
    inside: str = ""
    split: str | None = None
    prefix: str = "row"

    def __post_init__(self) -> None:
        self.name = self.table.name if self.table else str(self.folder)
        self.classes: Mapping[str, Sequence[str]] = self.table.classes if self.table else {}
        there = self.table.columns if self.table else ()
        self._place = {
            name: self.map.get(name)
            or next((other for other in (name, *ALIASES.get(name, ())) if other in there), name)
            for name in ("image", "masks", *NAMED)
        }

    @cached_property
    def columns(self) -> Sequence[str]:
        there = list(self.table.columns) if self.table else []
        own = ["image", *self.pattern.groupindex, *(["masks"] if self.masks else [])]
        return list(dict.fromkeys([*there, *(self._place[name] for name in own)]))

    @cached_property
    def files(self) -> list[str]:
        """The paths of the volumes below the folder, in order."""
        paths = (path.relative_to(self.folder) for path in sorted(self.folder.rglob("*")))
        seen = [path.as_posix() for path in paths if path.name.lower().endswith(ENDINGS) and path.name[0] != "."]
        patterns = [_filled(pattern.partition("#")[0], "*", "*") for pattern in self.masks.values()]
        return [name for name in seen if not any(fnmatch(f"./{name}", pattern) for pattern in patterns)]

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """The path of each volume by all that may stand for it, what stands for two of them left out."""
        names = [
            (short, name) for name in self.files for short in {name, stem(name), name.rpartition("/")[2], _end(name)}
        ]
        counts = Counter(short for short, _ in names)
        return {short: name for short, name in names if counts[short] == 1}

    def rows(self) -> Iterator[Row]:
        named = set()
        for row in self.table.rows() if self.table else ():
            cell = row.get(self._place["image"], "")
            known = self._by_name.get(str(cell).strip().replace("\\", "/").removeprefix("./"))
            if known is None:
                yield row
                continue
            named.add(known)
            stated = {column: value for column, value in row.items() if not absent(value)}
            yield {**row, **self._told(known), **stated, self._place["image"]: known}
        for name in self.files:
            if name not in named:
                yield self._told(name)

    def _told(self, name: str) -> Row:
        """Return what the path of a volume tells of it, by column."""
        match = self.pattern.search(stem(name)) if self.pattern.pattern else None
        told = {part: value for part, value in (match.groupdict() if match else {}).items() if value}
        masks = {mask: file for mask, pattern in self.masks.items() if (file := self._mask(name, pattern))}
        cells = {"image": name, **told, **({"masks": masks} if masks else {})}
        return {self._place[part]: value for part, value in cells.items()}

    def _mask(self, name: str, pattern: str) -> str:
        """Return the file of a volume's mask, "" where there is none; raises ConfigError for several."""
        folder, _, _ = name.rpartition("/")
        pattern, mark, value = pattern.partition("#")
        place = _filled(pattern, glob.escape(folder) or ".", glob.escape(_end(name))).removeprefix("./")
        found = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(place))
        if len(found) > 1:
            raise ConfigError(f"--masks {pattern}: {len(found)} files for the volume {name}: {', '.join(found[:3])}")
        return f"{found[0]}{mark}{value}" if found else ""

    def cell(self, number: int, column: str) -> Any:
        return ""


def stem(name: str) -> str:
    """Return the path of a volume without its ending."""
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _end(name: str) -> str:
    return stem(name).rpartition("/")[2]


def _filled(pattern: str, folder: str, own: str) -> str:
    """Return a pattern of `--masks` with the folder and the name of a volume in it, told from the raw folder on."""
    filled = pattern.replace("{folder}", folder).replace("{stem}", own)
    return filled if filled.startswith(("./", "*")) else f"./{filled}"
