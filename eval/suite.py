"""Suites: YAML files that name tasks. Adding an evaluation of a known family is a YAML file and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlp.core.config import ConfigError, config, digest, find, to_tree, validate
from vlp.core.registry import did_you_mean

from .failures import reason_of
from .tasks.base import NAME, Task, TaskSpec, families
from .zero_shot.prompts import load_file

FOLDER = Path(__file__).parent / "suites"


@config
class SuiteFile:
    """What a suite file holds. `defaults` are laid under every task."""

    version: str
    about: str
    defaults: dict[str, Any] | None = None
    tasks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Unbuilt:
    """A task of a suite that cannot be built, under the id that it has in the results, and why."""

    id: str
    family: str
    reason: str
    sha256: str


@dataclass(frozen=True)
class Suite:
    """Tasks in order, with the name, version and hash that stand in the results; `unbuilt` are those that cannot be built."""

    name: str
    version: str
    tasks: tuple[Task[Any], ...]
    unbuilt: tuple[Unbuilt, ...] = ()
    order: tuple[str, ...] = ()

    def to_tree(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "sha256": digest([*map(config_digest, self.tasks), *(unbuilt.sha256 for unbuilt in self.unbuilt)]),
        }


def read(name: str) -> Suite:
    """Read a shipped suite (by name) or a file; a task that cannot be built is kept as `unbuilt`.

    Raises ConfigError with the path of what is wrong with the file, or with every one of its tasks.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(f"no suite {name!r}{did_you_mean(name, shipped())}")
    content = load_file(SuiteFile, path)
    made: list[Task[Any]] = []
    failed: list[Unbuilt] = []
    order: list[str] = []
    for at, tree in enumerate(content.tasks):
        where = f"{path.name}: tasks.{at}"
        try:
            made.append(build({**(content.defaults or {}), **tree}, where, path.parent))
            order.append(made[-1].spec.id)
        except Exception as error:  # a plug-in may raise anything
            failed.append(_unbuilt(tree, at, reason_of(error)))
            order.append(failed[-1].id)
    seen: dict[str, str] = {}
    for name in order:
        if name.casefold() in seen:  # some file systems ignore case
            other = seen[name.casefold()]
            raise ConfigError(f"{path}: task id {name!r} is given twice{'' if name == other else f', as {other!r}'}")
        seen[name.casefold()] = name
    if not made:
        raise ConfigError("; ".join(unbuilt.reason for unbuilt in failed) or f"{path} has no tasks")
    return Suite(path.stem, content.version, tuple(made), tuple(failed), tuple(order))


def _unbuilt(tree: dict[str, Any], at: int, reason: str) -> Unbuilt:
    name, family = str(tree.get("id", "")), str(tree.get("family", "none"))
    stamp = digest({"task": repr(sorted(map(repr, tree.items())))})
    return Unbuilt(name if NAME.fullmatch(name) else f"task-{at}", family, reason, stamp)


def build(tree: dict[str, Any], where: str, folder: Path) -> Task[Any]:
    """Return the task that a mapping of a suite describes: keys of `TaskSpec`, the rest are the family's settings."""
    common = {item.name for item in fields(TaskSpec)}
    spec = validate(TaskSpec, {key: value for key, value in tree.items() if key in common}, where)
    rest = {key: value for key, value in tree.items() if key not in common}
    family = find(families, spec.family, f"{where}.family")
    return family(spec, validate(family.Config, rest, where), folder)


def config_digest(task: Task[Any]) -> str:
    """Return the sha256 of everything that defines a task: its specification, settings, and every prompt."""
    spec = to_tree(task.spec)
    if spec["data"]["one_per"] is None:  # came later: without it a task is what it was
        del spec["data"]["one_per"]
    return digest({"spec": spec, "settings": to_tree(task.settings), "shown": task.describe()})


def shipped() -> list[str]:
    """Return the names of the suites that come with the harness."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def every_task(only: str | None = None) -> Iterator[tuple[Suite, Task[Any]]]:
    """Yield each task of a suite, by default of each shipped one."""
    for name in [only] if only else shipped():
        suite = read(name)
        for task in suite.tasks:
            yield suite, task


def find_task(name: str, suite: str | None) -> Task[Any]:
    """Return a task by id, from a suite or from all the shipped ones.

    Raises ConfigError with the nearest id, or with the suites that an id is in when they are several.
    """
    known = list(every_task(suite))
    found = {home.name: task for home, task in known if task.spec.id == name}
    if not found:
        raise ConfigError(f"no task {name!r}{did_you_mean(name, dict.fromkeys(task.spec.id for _, task in known))}")
    if len(found) > 1:
        raise ConfigError(f"task {name!r} is in {' and '.join(found)}: say which with --suite")
    return next(iter(found.values()))
