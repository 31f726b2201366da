"""Rows by key on disk: files of arrays that are written whole, once, by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.output import locked, write_whole

ENDING = ".safetensors"


class RowFiles:
    """A folder of `00000.safetensors`: arrays of equal length, with the key and the facts of each row in the header."""

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises ConfigError for a file that is none of ours."""
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self._where: dict[str, tuple[Path, int]] = {}
        self._names: dict[Path, set[str]] = {}
        for path in sorted(folder.glob(f"*{ENDING}")):
            self._enter(path)

    def _enter(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                names, header = set(file.keys()), file.metadata()
            keys, facts = json.loads(header["keys"]), json.loads(header["facts"])
        except (SafetensorError, ValueError, LookupError, TypeError):
            raise ConfigError(f"{path} holds no embeddings of vlp-eval: choose another folder") from None
        self._names[path] = names
        for row, (key, fact) in enumerate(zip(keys, facts, strict=True)):
            if key not in self._where or self._names[self._where[key][0]] <= names:
                self._where[key], self.facts[key] = (path, row), fact

    def has(self, key: str, name: str) -> bool:
        return key in self._where and name in self._names[self._where[key][0]]

    def add(self, keys: Sequence[str], facts: Sequence[Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Write a file of rows; others may write here too."""
        from safetensors.numpy import save

        header = {"keys": json.dumps(list(keys)), "facts": json.dumps(list(facts))}
        content = save({name: np.ascontiguousarray(rows) for name, rows in arrays.items()}, header)
        with locked(self.folder / ".lock"):
            number = max((int(path.stem) for path in self.folder.glob(f"*{ENDING}")), default=-1) + 1
            path = self.folder / f"{number:05d}{ENDING}"
            write_whole(path, content)
        self._enter(path)

    def rows(self, keys: Sequence[str], name: str) -> NDArray[Any]:
        """Return the rows [n, ...] of keys, one or more, that are all there; one file is open at a time."""
        from safetensors import safe_open

        members: dict[Path, list[int]] = {}
        for place, key in enumerate(keys):
            members.setdefault(self._where[key][0], []).append(place)
        result: NDArray[Any] = np.empty(0)
        for path, places in members.items():
            with safe_open(path, "numpy") as file:
                content = file.get_tensor(name)
            if not len(result):
                result = np.empty((len(keys), *content.shape[1:]), content.dtype)
            result[places] = content[[self._where[keys[place]][1] for place in places]]
        return result
