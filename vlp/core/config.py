"""Recipes: YAML with `inherits:` and `a.b=c` overrides, validated into frozen dataclasses that are declared elsewhere.

This module knows how to read and check, not what there is to configure: components declare their own `@config` class,
and `vlp.train.recipe.Recipe` puts them together. Every complaint is one line with the path of the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import yaml

from . import declared
from .errors import ConfigError as ConfigError  # what the package's modules and its users import from here
from .registry import Registry, UnknownNameError, did_you_mean
from .untrusted import read_text, shown

T = TypeVar("T")

_TEXT = "tag:yaml.org,2002:str"
MAX_YAML = 16 << 20
MAX_DEPTH = 100
MAX_VALUES = 300_000
MAX_NUMBER = 200
MAX_PARENTS = 100
"""What a YAML file may be: its bytes, levels, values, the characters of a number, and the files that it inherits from."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that rejects unknown keys when it is read from a recipe."""
    cls.__pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


try:
    from yaml import CSafeLoader as _SafeLoader  # ten times as fast
except ImportError:  # a PyYAML that was built without libyaml
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _Named(io.StringIO):
    """A text with the name that messages give it."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class _Loader(_SafeLoader):
    """YAML 1.1 without its surprise that `1e-4` is a string, and with an error on a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # a list or a mapping: refused below
            if key in seen:
                raise ConfigError(
                    f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}: key {key!r} is given twice"
                )
            seen.add(key)
        return cast("dict[Any, Any]", super().construct_mapping(node, deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises ConfigError for a missing file or one that is not a mapping."""
    try:
        text = read_text(path, MAX_YAML)
    except FileNotFoundError:
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        raise ConfigError(f"no such file: {path}{near}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (at byte {error.start})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML text, which `name` names in messages; raises ConfigError."""
    try:
        _check_size(text, name)
        tree = yaml.load(_Named(text, name), Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: dates and numbers that there are not
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: expected a mapping of keys, found {type(tree).__name__}")
    return tree


def _check_size(text: str, name: str) -> None:
    """Raise ConfigError for YAML that is nested too deeply, holds too much once its aliases are written out, or numbers
    of thousands of digits; before anything is built, for each of these can end the process or take hours."""
    written: dict[str, int] = {}  # anchor -> how many values it stands for
    open_: list[tuple[str | None, int]] = []  # anchor of each collection that is open, and values in it so far
    for event in yaml.parse(_Named(text, name), Loader=_Loader):
        where = f"{name}:{event.start_mark.line + 1}" if event.start_mark else name
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag not in (None, "!", _TEXT):
            raise ConfigError(f"{where}: tag {shown(event.tag)}: expected none, or !!str")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > MAX_DEPTH:
                raise ConfigError(f"{where}: nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, values = event.anchor, 1
            if not event.style and len(event.value) > MAX_NUMBER and event.value[0] in "+-.0123456789":
                raise ConfigError(f"{where}: a number of {len(event.value)} characters")
        elif isinstance(event, yaml.AliasEvent):
            anchor, values = None, written.get(event.anchor or "", 0)
            if not values:
                raise ConfigError(f"{where}: alias *{event.anchor} of nothing above it, or of what holds it")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values = open_.pop()
        else:
            continue
        if anchor is not None:
            written[anchor] = values
        if open_:
            values += open_[-1][1]
            open_[-1] = (open_[-1][0], values)
        if values > MAX_VALUES:
            raise ConfigError(f"{where}: more than {MAX_VALUES} values, its aliases written out")


def compose(
    path: Path,
    overrides: Sequence[str] = (),
    kind: Any = Any,
    _chain: tuple[Path, ...] = (),
    _all: list[Path] | None = None,
) -> dict[str, Any]:
    """Return a recipe's tree: its `inherits:` parents (relative to the file, later ones win), itself, then overrides.

    `kind` is the `@config` class that the tree is for: overrides are read by the types that it declares.

    Mappings merge key by key; everything else, lists included, replaces what was there. A mapping with another `kind:`
    than its parent's replaces it whole: the old kind's keys mean nothing to the new one.
    """
    path = path.resolve()
    if path in _chain:
        raise ConfigError(f"recipes inherit in a circle: {' -> '.join(str(link) for link in (*_chain, path))}")
    read = [] if _all is None else _all
    read.append(path)
    if len(read) > MAX_PARENTS:
        raise ConfigError(f"{read[0]} inherits from more than {MAX_PARENTS} recipes")
    tree = read_yaml(path)
    parents = tree.pop("inherits", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: inherits: expected the name of a recipe or a list of names")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = merge(merged, compose(path.parent / parent, _chain=(*_chain, path), _all=read))
    merged = merge(merged, tree)
    for override in overrides:
        merged = merge(merged, parse_override(override, merged, kind))
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top (see `compose`)."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            value = merge(old, value)
        result[key] = value
    return result


def parse_override(text: str, tree: Mapping[str, Any], kind: Any = Any) -> dict[str, Any]:
    """Return the tree that `a.b=c` stands for; `a.0.b=c` reaches into a list that `tree` already holds.

    The value is read by the type that `kind` declares for the key: a field that holds a text gets the text as it is.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"override {text!r} is not of the form a.b=value")
    keys = path.split(".")
    at: Any = tree
    for key in keys:
        kind = declared.member(kind, key, at)
        if isinstance(at, Mapping):
            at = at.get(key)
        else:
            at = at[int(key)] if isinstance(at, list) and key.isdigit() and int(key) < len(at) else None
    try:
        parsed = declared.read(value, kind, at)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r} is not valid YAML: {' '.join(str(error).split())}") from None
    return cast("dict[str, Any]", _nest(keys, parsed, tree, text))


def _nest(keys: list[str], value: Any, tree: Any, text: str) -> Any:
    if not keys:
        return value
    head, *rest = keys
    if isinstance(tree, list):
        if not head.isdigit() or int(head) >= len(tree):
            raise ConfigError(f"override {text!r}: {head!r} is not an index into the list of {len(tree)}")
        items, at = list(tree), int(head)
        inner = _nest(rest, value, items[at], text)
        items[at] = merge(items[at], inner) if isinstance(items[at], Mapping) and isinstance(inner, Mapping) else inner
        return items
    below = tree.get(head) if isinstance(tree, Mapping) else None
    return {head: _nest(rest, value, below, text)}


def validate(kind: type[T], tree: Any, where: str = "") -> T:
    """Return `tree` as an instance of the `@config` class `kind`; raises ConfigError with each wrong key's path."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            keys = [str(key) for key in problem["loc"]]
            path = ".".join([where, *keys] if where else keys)
            if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                lines.append(f"unknown key {path!r}{did_you_mean(keys[-1], _known(kind, keys[:-1]))}")
            elif problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
                lines.append(f"missing key {path!r}")
            else:
                found = repr(problem["input"])
                cut = found if len(found) <= MAX_NUMBER else f"{found[:MAX_NUMBER]}..."
                lines.append(f"{path or 'recipe'}: {problem['msg']}, found {cut}")
        raise ConfigError("; ".join(lines)) from None


def _known(kind: Any, path: list[str]) -> list[str]:
    """Return the field names of the dataclass that `path` leads to, [] where the path leaves typed ground."""
    for key in path:
        kind = declared.member(kind, key)
    candidates = [choice for choice in map(declared.bare, declared.choices(kind)) if dataclasses.is_dataclass(choice)]
    return [item.name for candidate in candidates for item in dataclasses.fields(candidate)]


def load(kind: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read, compose and validate a recipe file."""
    return validate(kind, compose(path, overrides, kind))


def to_tree(value: Any) -> Any:
    """Return a config as plain JSON values, every default written out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_tree(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_tree(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def dump_yaml(value: Any) -> str:
    """Return a config or tree as YAML, keys in the order they were declared."""
    return str(yaml.safe_dump(to_tree(value), sort_keys=False, allow_unicode=True))


def digest(value: Any) -> str:
    """Return the sha256 of a config or tree, independent of the order of keys."""
    return hashlib.sha256(json.dumps(to_tree(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def find(registry: Registry[T], name: str, where: str) -> T:
    """Return the component called `name`; raises ConfigError that names the key `where`."""
    try:
        return registry.get(name)
    except UnknownNameError as error:
        raise ConfigError(f"{where}: {error}") from None


def component(registry: Registry[type[T]], tree: Any, where: str) -> tuple[type[T], Any]:
    """Split a `{kind: name, ...}` mapping into the class registered as `name` and its validated `Config`.

    `where` is the path of the mapping in the recipe, for messages. Raises ConfigError.
    """
    if isinstance(tree, str):
        tree = {"kind": tree}
    if not isinstance(tree, Mapping) or "kind" not in tree:
        raise ConfigError(f"{where}: expected a mapping with a `kind:` (one of: {', '.join(registry)}), found {tree!r}")
    cls = find(registry, str(tree["kind"]), f"{where}.kind")
    rest = {key: value for key, value in tree.items() if key != "kind"}
    return cls, validate(cls.Config, rest, where)  # type: ignore[attr-defined]
