"""What a key of a recipe is declared as, and a text from the command line read as that type.

A text stays a text where the field holds one: YAML would read `/x/set #2` as `/x/set`, `012` as 10, `no` as false.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from .registry import Registry, UnknownNameError

MAPPINGS = (dict, Mapping)
SEQUENCES = (tuple, list, set, frozenset, Sequence)
NULLS = ("", "null", "Null", "NULL", "~")
BOOLEANS = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|[-+]?\.inf|\.nan", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kinds:
    """Says of a field `{kind: name, ...}` which registry its kinds are in: "package.module:registry", imported when asked."""

    registry: str

    def config(self, kind: Any) -> Any:
        """Return the `Config` of the component called `kind`, Any where there is none of that name."""
        module, _, name = self.registry.partition(":")
        kinds: Registry[Any] = getattr(importlib.import_module(module), name)
        try:
            return kinds.get(str(kind)).Config
        except (UnknownNameError, AttributeError):  # said where it is built
            return Any


def choices(kind: Any) -> list[Any]:
    """Return the members of a union, any other type alone; annotations are taken off, but for `Kinds`."""
    if get_origin(kind) in (Union, UnionType):
        return [choice for member in get_args(kind) for choice in choices(member)]
    if get_origin(kind) is Annotated and not any(isinstance(note, Kinds) for note in get_args(kind)[1:]):
        return choices(get_args(kind)[0])
    return [kind]


def docs_of(kind: type) -> dict[str, str]:
    """Return what stands in quotes beneath each field of a class, by the field's name; {} without its source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for item, below in zip(body.body, body.body[1:], strict=False):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(text, str):
            found[item.target.id] = " ".join(text.split())
    return found


def bare(kind: Any) -> Any:
    """Return a type without its annotations."""
    return bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def member(kind: Any, key: str, tree: Any = None) -> Any:
    """Return the type of `key` in a value of type `kind`, Any where it is not declared.

    `tree` is the value itself, whose `kind:` names the component that its keys belong to.
    """
    for choice in choices(kind):
        if get_origin(choice) is Annotated:
            named = [note for note in get_args(choice)[1:] if isinstance(note, Kinds)]
            if key == "kind" and named:
                return str
            if named and isinstance(tree, Mapping) and "kind" in tree:
                return member(named[0].config(tree["kind"]), key)
            choice = bare(choice)
        if dataclasses.is_dataclass(choice):
            hints = get_type_hints(choice, include_extras=True)
            if key in hints:
                return hints[key]
        elif get_origin(choice) in MAPPINGS:
            return get_args(choice)[1]
        elif get_origin(choice) in SEQUENCES and key.isdigit():
            items = [item for item in get_args(choice) if item is not Ellipsis]
            return items[min(int(key), len(items) - 1)] if items else Any
    return Any


def read(text: str, kind: Any, tree: Any = None) -> Any:
    """Return `text` as a value of type `kind`; text that is none is returned as it is, for validation to complain of.

    Raises yaml.YAMLError for a list or mapping (`[a, b]`, `{a: b}`) that is not valid YAML, where no text is expected.
    """
    members, word = choices(kind), text.strip()
    plain = [bare(choice) for choice in members]
    is_text = str in plain or Path in plain
    if (text if is_text else word) in NULLS and (NoneType in plain or (word and not is_text)):
        return None
    if Any in plain:
        return looks_like(text)
    nested = [choice for choice in members if _holds_others(bare(choice))]
    is_closed = (word[:1], word[-1:]) in (("[", "]"), ("{", "}"))  # else a comment would be lost
    if nested and (is_closed or (word[:1] in ("[", "{") and not is_text)):
        try:
            node = _compose(text)
        except yaml.YAMLError:
            if not is_text:
                raise
        else:
            for choice in nested if is_closed else ():
                if isinstance(node, _node_type(bare(choice))):
                    return _value(node, choice, tree)
    for option in (option for choice in plain if get_origin(choice) is Literal for option in get_args(choice)):
        if option == (text if isinstance(option, str) else _number(word, type(option))):
            return option
    for choice in plain:
        if choice in (bool, int, float) and (found := _number(word, choice)) is not None:
            return found
    return text


def _number(word: str, kind: type) -> Any:
    """Return a word as a bool, int or float, None where it is none."""
    if kind is bool:
        return BOOLEANS.get(word.lower())
    if INTEGER.fullmatch(word):
        return kind(word)
    if FLOAT.fullmatch(word):
        number = float(word.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        return number if kind is float else int(number) if number.is_integer() else None
    return None


def looks_like(text: str) -> Any:
    """Return what an undeclared value looks like: a number, true or false, null, a list or mapping; else the text itself."""
    word = text.strip()
    if word in NULLS:
        return None
    if word in ("true", "True", "false", "False"):
        return word.lower() == "true"
    if INTEGER.fullmatch(word):
        return int(word) if str(int(word)) == word.replace("_", "").lstrip("+") else text  # not 012
    if (number := _number(word, float)) is not None:
        return number
    if (word[:1], word[-1:]) in (("[", "]"), ("{", "}")):
        return _value(_compose(text), Any, None)
    return text


def _compose(text: str) -> yaml.Node:
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    assert node is not None  # it starts with a bracket
    return node


def _holds_others(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or (get_origin(kind) or kind) in (*MAPPINGS, *SEQUENCES)


def _node_type(kind: Any) -> type[yaml.Node]:
    return yaml.SequenceNode if (get_origin(kind) or kind) in SEQUENCES else yaml.MappingNode


def _value(node: yaml.Node, kind: Any, tree: Any) -> Any:
    """Return a YAML node as a value, its scalars read by the types that are declared for them."""
    if isinstance(node, yaml.ScalarNode):
        if node.style in ("'", '"'):
            return node.value
        return read(node.value, kind, tree)
    if isinstance(node, yaml.SequenceNode):
        sort = next((choice for choice in choices(kind) if _node_type(bare(choice)) is yaml.SequenceNode), Any)
        return [_value(item, member(sort, str(place)), None) for place, item in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    keys = {str(key.value): item for key, item in node.value}
    named = keys.get("kind")
    known = {**(tree if isinstance(tree, Mapping) else {}), **({"kind": named.value} if named is not None else {})}
    return {key: _value(item, member(kind, key, known), known.get(key)) for key, item in keys.items()}
