"""What the owner of the data needs to find rejected files again: their keys, places and reasons as they are.

The file lies beside the folder of shards, not in it, and only its owner can read it: a copy or an upload of the set
takes no ids along.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PREFIX = "rejected-private"


def private_of(out: Path, suffix: str = "") -> Path:
    """Return the private file of a set: beside its folder, or in it where nothing can be written beside it."""
    folder = Path(os.path.abspath(out))
    if folder.is_dir() and not os.access(folder.parent, os.W_OK):
        return folder / f"{PREFIX}{suffix}.jsonl"
    return folder.with_name(f"{PREFIX}-{folder.name}{suffix}.jsonl")


def add_private(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a private file, which only its owner can read from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "ab", buffering=0) as file:
        before, data = file.tell(), "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(before)  # no half of a line, which a full disk would leave
            raise


def sort_private(path: Path) -> None:
    """Put the lines in the order of the source, each once, where shards were made in another order or again."""
    if not path.is_file():
        return
    lines = {line["index"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    sorted_file = path.with_name(f".{path.name}.{os.getpid()}")
    sorted_file.unlink(missing_ok=True)
    add_private(sorted_file, (lines[index] for index in sorted(lines)))
    sorted_file.replace(path)


def replace_private(new: Path, old: Path) -> None:
    """Let the private file of a new set take the place of the old set's."""
    old.unlink(missing_ok=True)
    if new.is_file():
        new.replace(old)
