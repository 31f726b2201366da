"""What a task is: a specification from a suite, a plan of what it needs encoded, and a run that yields its result."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlp.core.config import config
from vlp.core.registry import Registry

from ..bootstrap import Resamples, draw
from ..data.dataset import Data
from ..data.spec import DataError, DataSpec

if TYPE_CHECKING:
    from ..embeddings.cache import Store


Column = list[float | None]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a task may be called."""


@config
class Reference:
    """A published number: `tag` R when it was read in the authors' own repository or card, S when in a later paper's table."""

    model: str
    metric: str
    value: float
    source: str
    tag: str


@config
class TaskSpec:
    """What every task states, whatever its family."""

    id: str
    family: str
    version: str = "1.0"
    about: str = ""
    licence: str = ""
    data: DataSpec = DataSpec()
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.id):  # it names files below the run's folder
            raise ValueError(
                f"id {self.id[:80]!r}: expected at most 100 letters, digits, dots, dashes and underscores, the first of "
                "them a letter or a digit"
            )


@dataclass
class Plan:
    """What a task wants encoded: indices of images, of images with patch features, and texts; of other splits by name."""

    images: list[int] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """A task's result: see the schema. `figures` is what the report draws, plain JSON; `rows` go to the per-sample file."""

    indices: Sequence[int]
    metrics: dict[str, dict[str, Any]]
    per_class: dict[str, dict[str, Any]] = field(default_factory=dict)
    subgroups: dict[str, Any] = field(default_factory=dict)
    prompts: list[dict[str, object]] = field(default_factory=list)
    scoring: dict[str, Any] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    prevalence: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Context:
    """What a task runs on: its data, the embeddings, other splits on demand, and the settings of the run."""

    data: Data
    store: Store
    split: Callable[[str], Data | None]
    read: Callable[[DataSpec], Data]
    seed: int = 0
    resamples: int = 1000
    show_text: bool = False
    pictures: bool = True

    @cached_property
    def usable(self) -> list[int]:
        return self.data.usable()

    def draw(self, indices: Sequence[int]) -> Resamples:
        """Return resamples of the patients of these records [n], a record as often as it is given."""
        return draw([self.data.patient(one) for one in indices], self.resamples, self.seed, self.data.unit)

    def row(self, index: int) -> dict[str, Any]:
        """Return what every per-sample row starts with: the key and a code for the patient."""
        return {"id": self.data.records[index].key, "patient": self.data.patient_code(index)}


class Task(ABC):
    """A scored task. `needs` names what the records must have, for `ls` and `check`."""

    Config: ClassVar[type]
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: TaskSpec, settings: Any, folder: Path | None = None) -> None:
        """Take the settings of a suite in `folder`; raises ConfigError for what shows without data (prompts)."""
        self.spec, self.settings, self.folder = spec, settings, folder

    @abstractmethod
    def plan(self, context: Context) -> Plan:
        """Return what is to be encoded. Raises DataError when the data cannot serve the task."""

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """Score; everything in the plan is in the store."""

    def listed(self, context: Context) -> Sequence[int]:
        """Return the records that stand in the results, which their `ids_sha256` is of."""
        return self.plan(context).images

    def needs_model(self) -> bool:
        """Return whether the task looks into the model itself, so that cached embeddings do not serve it."""
        return False

    @classmethod
    def comparable(cls, metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
        """Return the value in each per-sample row [n] of each metric that is the mean of such values; None: not defined.

        By default the columns of the rows that are called like a metric. `compare` compares nothing else but `ranked`.
        """
        return {name: [row.get(name) for row in rows] for name in metrics if any(name in row for row in rows)}

    @classmethod
    def ranked(cls, metrics: Mapping[str, Any]) -> bool:
        """Return whether the rows hold `labels` and `scores` of classes whose AUROCs are the run's scores."""
        return False

    def show(self) -> dict[str, Any]:
        """Return what `vlp-eval show` prints beyond the specification: prompts and scoring."""
        return {}


def at_least(settings: Any, least: int, *names: str) -> None:
    """Raise ValueError for a setting, or a member of one, below `least`; None is no limit."""
    for name in names:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and one < least:
                raise ValueError(f"{name}: expected at least {least}, found {one}")


tasks: Registry[type[Task]] = Registry("task family")


def some(indices: Sequence[int], what: str, data: Data) -> list[int]:
    """Return the indices, raising DataError when there are none."""
    if not indices:
        raise DataError(f"{data.name}, split {data.split!r}: no record has {what}")
    return list(indices)
