"""The options of a build, written once: what they are, their types, defaults and help, and how words set them.

Every option has a full name, `image.max_side` or `source.table`, and is set by it as in a recipe (`image.max_side=512`), or
by the flag that is made of its last word (`--max-side 512`); both are checked by the same declaration.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from vlp.core.config import ConfigError, config, merge, parse_override, validate
from vlp.core.declared import Kinds, bare, choices, docs_of
from vlp.modalities.volume.options import VolumeOptions

from ..images.store import ImageOptions
from ..sources.base import sources
from ..splits.split import SHARES
from .prepare import TextOptions


@config
class BuildOptions:
    """Where to, how many at a time, and the rules of the set."""

    source: Annotated[dict[str, Any], Kinds("vlp_prep.sources.base:sources")]
    """The source as `kind`, with the options of its own."""
    raw: Path | None = None
    """The folder as its publisher distributes it."""
    out: Path
    """Where the shards go."""
    workers: int | None = None
    """Worker processes, 0: this one alone (default: all cores, 0 for small sets)."""
    engine: str = "processes"
    """Where the workers run: processes, ray, or ray:ADDRESS of a cluster."""
    resume: bool = False
    """Go on: keep the shards that are finished."""
    overwrite: bool = False
    """Make the set again; once complete, it replaces the one in --out."""
    shard_size: int | None = None
    """Records per shard (default: 512, of volumes 32)."""
    shard_of: str = "0/1"
    """I/N: make every N-th shard only, from the I-th."""
    split: str = SHARES
    """Shares of train,val,test by patient, or none."""
    seed: int = 0
    """Seed of the split, and of a source that draws at random."""
    max_rejected: float = 0.01
    """Fail when more than this share of the records is bad."""
    ids: Literal["auto", "hash", "keep"] = "auto"
    """Replace ids by keyed hashes or keep them; auto: hash where a key is set, which some sources require."""
    key_file: Path | None = None
    """File with the key of the hashes (else the environment variable VLP_PREP_KEY)."""
    follow_links: bool = False
    """Follow links that lead out of the raw folder."""
    image: ImageOptions = ImageOptions()
    text: TextOptions = TextOptions()
    volume: VolumeOptions = VolumeOptions()


def shard_of(text: str) -> tuple[int, int]:
    """Return (i, n) of `I/N`: every n-th shard, from the i-th; raises ConfigError."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise ConfigError(f"--shard-of {text!r}: expected I/N with 0 <= I < N, for example 0/8")
    return int(part), int(parts)


def add_flags(parser: argparse.ArgumentParser, source: str | None) -> None:
    """Declare a flag for each option of a build, and of the source, with the help of its declaration."""
    group = parser.add_argument_group("options of every build")
    own = list(_leaves(BuildOptions))
    for path, item in own:
        _add_flag(group, path, *item)
    if source is not None:
        kind = sources.get(source).Config
        group = parser.add_argument_group(f"options of {source}", (kind.__doc__ or "").strip())
        seen = {path[-1] for path, _ in own}
        for path, item in _leaves(kind, ("source",)):
            if path[-1] not in seen:
                _add_flag(group, path, *item)


def read_options(source: str, flags: Mapping[str, Any], overrides: Sequence[str]) -> BuildOptions:
    """Return the options that flags (by full name) and overrides set; raises ConfigError, a near name with it."""
    cls = sources.get(source)
    tree: dict[str, Any] = {"source": {"kind": source}}
    for name, value in flags.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    own = {item.name for item in dataclasses.fields(cls.Config)}
    for name, value in flags.items():  # a flag of every build that the source has too is for both
        if (word := name.rpartition(".")[2]) in own:
            tree["source"].setdefault(word, value)
    for override in overrides:
        tree = merge(tree, parse_override(override, tree, BuildOptions))
    return validate(BuildOptions, tree)


def _leaves(kind: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[Any, Any, str]]]:
    """Yield the path of each option below a class, with its type, its default and its help."""
    hints, docs = get_type_hints(kind, include_extras=True), docs_of(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _leaves(hints[item.name], (*above, item.name))
        elif not (kind is BuildOptions and item.name == "source"):
            yield (*above, item.name), (hints[item.name], item.default, docs.get(item.name, ""))


def _add_flag(group: Any, path: tuple[str, ...], kind: Any, default: Any, text: str) -> None:
    name, flag, words = ".".join(path), f"--{path[-1].replace('_', '-')}", text.rstrip(".")
    if path[0] in ("image", "text", "volume"):
        words = f"{words} [{name}]"
    if default not in (None, False, True, dataclasses.MISSING, "", ()) and "default" not in words:
        words = f"{words} (default: {default})"
    declared = {"dest": name, "default": argparse.SUPPRESS, "help": words.strip().replace("%", "%%")}
    kinds = [bare(choice) for choice in choices(kind)]
    origin = get_origin(kinds[0]) or kinds[0]
    if origin is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **declared)
    elif origin is dict:
        group.add_argument(flag, nargs="+", action=_Pairs, metavar="NAME=VALUE", **declared)
    elif origin in (tuple, list):
        group.add_argument(flag, nargs="+", metavar="VALUE", **declared)
    else:
        names = {int: "N", float: "X", Path: "PATH", Literal: f"{{{','.join(map(str, get_args(kinds[0])))}}}"}
        group.add_argument(flag, metavar=names.get(origin, "TEXT"), **declared)


class _Pairs(argparse.Action):
    """Collect `name=value` words into a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = dict(getattr(namespace, self.dest, None) or {})
        for word in values:
            name, equals, value = word.partition("=")
            if not equals or not name:
                parser.error(f"{option_string}: expected NAME=VALUE, found {word!r}")
            found[name] = value
        setattr(namespace, self.dest, found)
