"""Names to classes: how a recipe's `kind:` finds its code. One decorator, one lookup, for all sorts of components.

Objectives, needs, towers, tokenizers, engines, export formats, task families and sources are all found in this way.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class UnknownNameError(LookupError):
    """A name that nothing was registered under; the message lists the near ones."""


class Registry(Generic[T]):
    """A table of named components of one sort.

    `kinds = Registry[Objective]("objective")`, then `@kinds.register("clip")` above a class and `kinds.get("clip")`.
    `package` is imported at the first lookup: its `__init__` imports the members, which register themselves.
    A name with a colon, `"my_package.my_module:MyClass"`, is imported instead of looked up, so that a component can
    live in another repository.
    """

    def __init__(self, sort: str, package: str | None = None) -> None:
        self.sort = sort
        self._package = package
        self._own: dict[str, T] = {}

    @property
    def _table(self) -> dict[str, T]:
        if self._package is not None:
            importlib.import_module(self._package)  # does nothing when it is there; one that failed fails again
        return self._own

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under `name`; raises ValueError when the name is taken."""

        def enter(component: T) -> T:
            if name in self._own and _place(self._own[name]) != _place(component):
                raise ValueError(f"{self.sort} {name!r} is registered twice: {self._own[name]!r} and {component!r}")
            self._own[name] = component
            return component

        return enter

    def get(self, name: str) -> T:
        """Return the component called `name`; raises UnknownNameError with the nearest names."""
        if name in self._table:
            return self._table[name]
        if ":" in name:
            return self._import(name)
        raise UnknownNameError(f"unknown {self.sort} {name!r}{did_you_mean(name, self._table)}")

    def _import(self, name: str) -> T:
        module_name, _, attribute = name.partition(":")
        try:
            return cast(T, getattr(importlib.import_module(module_name), attribute))
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(f"cannot import {self.sort} {name!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table))

    def __contains__(self, name: object) -> bool:
        return name in self._table


def _place(component: object) -> tuple[object, object]:
    """Return where a component is written: a module that failed is executed again, and registers again."""
    return getattr(component, "__module__", None), getattr(component, "__qualname__", component)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for a near miss, otherwise the list of what is known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return f" (known: {', '.join(names)})" if names else ""
