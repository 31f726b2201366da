"""What the card of a Hub data set (README.md) says of its files: `configs:`, each with the files of its splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, parse_yaml
from vlp.core.untrusted import is_relative_name, read_regular, shown

CARD = "README.md"
MAX_CARD = 16 << 20
DEEPEST = 16
_HEADER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

Files = list[tuple[str | None, list[str]]]
"""Splits, None where none is named, and the patterns of their files."""


def stated_files(place: Path, subset: str | None) -> Files | None:
    """Return the files of a configuration, by split, as the card of a folder states them; None where it states none.

    `subset` names the configuration; without one it is the only one, or the default. Raises ConfigError.
    """
    card = place / CARD
    if not card.is_file():
        return None
    try:
        header = _HEADER.match(read_regular(card, MAX_CARD).decode("utf-8", "replace"))
        if header is None or not re.search(r"^configs[ \t]*:", header.group(1), re.MULTILINE):
            return None
        configurations = parse_yaml(header.group(1), str(card)).get("configs") or []
    except (ConfigError, OSError) as error:
        raise ConfigError(f"hf: the card says where the files of its splits are, and cannot be read: {error}") from None
    if not isinstance(configurations, list) or not all(isinstance(entry, Mapping) for entry in configurations):
        raise ConfigError(f"hf: {card}: configs: expected a list of mappings")
    entry = _chosen(card, configurations, subset)
    if entry is None or not (entry.get("data_files") or entry.get("data_dir")):
        return None
    folder = _path(card, str(entry["data_dir"]).strip("/")) + "/" if entry.get("data_dir") else ""
    return [
        (None if split is None else str(split), _patterns(card, folder, patterns))
        for split, patterns in _splits(entry.get("data_files") or "**")
    ]


def is_named(place: str, pattern: str) -> bool:
    """Return whether a relative path is one of those that a pattern stands for: `*` in a name, `**` any folders."""
    patterns = pattern.split("/")
    reached = _past_folders({0}, patterns)  # how many of the patterns may be used up
    for part in place.split("/"):
        going = {at for at in reached if patterns[at : at + 1] == ["**"]}
        ending = {at + 1 for at in reached - going if at < len(patterns) and fnmatchcase(part, patterns[at])}
        reached = _past_folders(going | ending, patterns)
    return len(patterns) in reached


def _past_folders(reached: set[int], patterns: Sequence[str]) -> set[int]:
    """Return the places that are reached where `**` stands for no folder too."""
    for at, pattern in enumerate(patterns):
        if at in reached and pattern == "**":
            reached.add(at + 1)
    return reached


def _chosen(card: Path, configurations: list[Mapping[str, Any]], subset: str | None) -> Mapping[str, Any] | None:
    named = {str(entry.get("config_name", "default")): entry for entry in configurations}
    if subset is not None:
        return named.get(subset)
    if len(named) < 2:
        return next(iter(named.values()), None)
    default = [entry for name, entry in named.items() if entry.get("default") is True or name == "default"]
    if len(default) != 1:
        names = ", ".join(shown(name) for name in sorted(named)[:20])
        raise ConfigError(f"hf: {card} names several configurations: give --subset, one of {names}")
    return default[0]


def _splits(stated: Any) -> list[tuple[Any, Any]]:
    if isinstance(stated, Mapping):
        return list(stated.items())
    if isinstance(stated, list) and all(isinstance(entry, Mapping) for entry in stated):
        return [(entry.get("split"), entry.get("path")) for entry in stated]
    return [(None, stated)]


def _patterns(card: Path, folder: str, stated: Any) -> list[str]:
    patterns = stated if isinstance(stated, list) else [stated]
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError(f"hf: {card}: data_files: expected paths, or a list of split and path")
    return [_path(card, folder + pattern.removeprefix("./")) for pattern in patterns]


def _path(card: Path, pattern: str) -> str:
    if not is_relative_name(pattern) or pattern.count("/") >= DEEPEST:
        raise ConfigError(f"hf: {card}: {shown(pattern)} is refused: expected a path below the card's folder")
    return pattern
