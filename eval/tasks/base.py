"""What a task is: a specification from a suite, a plan of what it needs encoded, and a run that yields its result."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import config, read_yaml
from vlp.core.registry import Registry

from ..bootstrap import Resamples, draw
from ..data.dataset import Data, Findings
from ..data.spec import DataError, DataSpec
from ..drawing.cards import Card, Forest, Published, Row, Section, references_of, scale_of
from ..drawing.wording import ends
from ..intervals import of_mean
from ..results import TaskResult, metric

if TYPE_CHECKING:
    from ..embeddings.cache import EmbeddingCache


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
    """What a task scores and what it wants encoded: indices of images, of images with patch features, and texts.

    A family adds what it selected; its `run` receives the same object.
    """

    images: list[int]
    patches: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def scored_records(self) -> Sequence[int]:
        """Return the records that stand in the results, which their `ids_sha256` is of."""
        return self.images


Selection = TypeVar("Selection", bound=Plan)


@dataclass
class Outcome:
    """A task's result: see the schema. `figures` is what the report draws, plain JSON; `rows` go to the per-sample file, by
    default one for each of `indices` that says whose it is."""

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
    """What a task runs on: its data, the embeddings, other splits on demand, and the settings of the run.

    `maps`: the folder that maps of volumes are written to; None: they are not.
    """

    data: Data
    cache: EmbeddingCache
    split: Callable[[str], Data | None]
    read: Callable[[DataSpec], Data]
    seed: int = 0
    resamples: int = 1000
    show_text: bool = False
    draw_images: bool = True
    maps: Path | None = None

    @cached_property
    def usable(self) -> list[int]:
        return self.data.usable()

    def draw(self, indices: Sequence[int]) -> Resamples:
        """Return resamples of the patients of these records [n], a record as often as it is given."""
        return draw([self.data.patient(index) for index in indices], self.resamples, self.seed, self.data.unit)

    def row(self, index: int) -> dict[str, Any]:
        """Return what every per-sample row starts with: the key and a code for the patient."""
        return {"id": self.data.records[index].key, "patient": self.data.patient_code(index)}


@dataclass(frozen=True)
class Mean:
    """A metric that is the mean of a value of each sample [n]; None: undefined."""

    values: Sequence[float | None]


@dataclass(frozen=True)
class Auroc:
    """An AUROC of labels [n] of 1 and 0 (None: unknown) and scores [n]."""

    labels: Sequence[int | None]
    scores: Sequence[float]


@dataclass(frozen=True)
class MeanAuroc:
    """The mean of the AUROCs of these names."""

    of: tuple[str, ...]


Comparable = Mean | Auroc | MeanAuroc
Words = tuple[tuple[str, str], ...]
"""Patterns of metric names, and the words for them with the patterns' groups in."""


class Task(ABC, Generic[Selection]):
    """A scored task. `needs` names what the records must have, for `ls`.

    `titles` and `meanings` say on the page what the metrics are called and what the main ones count, `unbounded` is the
    pattern of those that do not lie in [0, 1], `controls` are short names of controls by what ends a control's name.
    """

    Config: ClassVar[type]
    needs: ClassVar[frozenset[str]] = frozenset()
    compares_samples: ClassVar[bool] = False
    titles: ClassVar[Words] = ()
    meanings: ClassVar[Words] = ()
    unbounded: ClassVar[str] = r"(?!)"
    controls: ClassVar[Mapping[str, str]] = {}

    def __init__(self, spec: TaskSpec, settings: Any, folder: Path | None = None) -> None:
        """Take the settings of a suite in `folder`; raises ConfigError for what shows without data (prompts)."""
        self.spec, self.settings, self.folder = spec, settings, folder

    @abstractmethod
    def plan(self, context: Context) -> Selection:
        """Return what is scored and what is to be encoded. Raises DataError when the data cannot serve the task."""

    @abstractmethod
    def run(self, context: Context, plan: Selection) -> Outcome:
        """Score; everything in the plan is in the cache of embeddings."""

    def check(self, data: Data) -> Findings:
        """Return facts about the data, and problems with it, for `vlp-eval check`."""
        return {}, []

    def needs_model(self) -> bool:
        """Return whether the task looks into the model itself, so that cached embeddings do not serve it."""
        return False

    def describe(self) -> dict[str, Any]:
        """Return what `vlp-eval show` prints beyond the specification: prompts and scoring."""
        return {}

    @classmethod
    def comparable(cls, result: TaskResult) -> dict[str, Comparable]:
        """Return the metrics that `vlp-eval compare` may compare, with what each sample contributes.

        By default none, or of a family that `compares_samples` those that are means of the per-sample column of their name.
        """
        columns = {name for row in result.rows for name in row} if cls.compares_samples else set()
        return {name: Mean([row.get(name) for row in result.rows]) for name in result.metrics if name in columns}

    @classmethod
    def title(cls, name: str) -> str:
        """Return a metric's name in words."""
        return worded(cls.titles, name) or name.replace("_", " ").capitalize()

    @classmethod
    def class_metrics(cls, entry: Mapping[str, Any]) -> list[str]:
        """Return the metrics that stand for a class, given the task's entry: by default its primary ones."""
        return [name for name, metric in entry["metrics"].items() if metric.get("primary")]

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        """Return what the page shows of a result: by default a card of its scores."""
        return [[scores_card(cls, result)]]


TITLES = read_yaml(Path(__file__).with_name("titles.yaml"))
Families = Registry[type[Task[Any]]]
families: Families = Registry("task family", package="vlp_eval.tasks")


def family_of(name: str) -> type[Task[Any]]:
    """Return a family by its name in a results file, which causes no import: `Task` for one of a module not loaded."""
    if name in families:
        return families.get(name)
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules.get(module), attribute, None)
    return found if isinstance(found, type) and issubclass(found, Task) else Task


def is_unbounded(family: type[Task[Any]], name: str) -> bool:
    """Return whether a metric's range is not [0, 1]."""
    return re.fullmatch(family.unbounded, name) is not None


def words_of(family: str) -> tuple[Words, Words]:
    """Return the titles and the meanings of the metrics of a family of the harness."""
    return tuple(TITLES[family]["titles"].items()), tuple(TITLES[family]["meanings"].items())


def worded(table: Words, name: str) -> str:
    """Return the words of the first pattern that a whole name fits; empty where none does."""
    for pattern, words in table:
        if found := re.fullmatch(pattern, name):
            return words.format(*(group.replace("_", " ") for group in found.groups()))
    return ""


def require_any(indices: Sequence[int], what: str, data: Data) -> list[int]:
    """Return the indices, raising DataError when there are none."""
    if not indices:
        raise DataError(f"{data.name}, split {data.split!r}: no record has {what}")
    return list(indices)


def mean_metric(
    values: NDArray[np.float64], drawn: Resamples, *, bounded: bool = True, reason: str, **facts: Any
) -> dict[str, Any]:
    """Return the mean of per-sample values [n] with its interval, and the number `n` of those that are not NaN."""
    known = np.isfinite(values)
    value = float(values[known].mean()) if known.any() else None
    bounds = of_mean(values, drawn, bounded) if known.any() else None
    return metric(value, bounds, reason=reason, n=int(known.sum()), **facts)


# what the page shows of a result


def scores_card(family: type[Task[Any]], result: TaskResult) -> Card:
    """Return a card of all metrics that are fractions and no control of another, with their published numbers."""
    rows = []
    for name, entry in result.metrics.items():
        value = entry["value"]
        if value is None or not -1 <= value <= 1 or "control_of" in entry or is_unbounded(family, name):
            continue
        style = "main" if entry.get("primary") else ""
        references = references_of(result.entry, name)
        rows.append(Row(entry, family.title(name), scale_of([entry]), references, style))
    return Card("Scores", [Forest(rows), *published(family, result)])


def published(family: type[Task[Any]], result: TaskResult) -> list[Published]:
    """Return the published numbers of a task's own metrics, best first, with where they were read."""
    pieces = []
    for name in result.metrics:
        found = sorted(references_of(result.entry, name), key=lambda reference: -reference["value"])
        if found:
            numbers = [(reference["model"], reference["value"]) for reference in found]
            sources = dict.fromkeys(reference["source"] for reference in found)
            pieces.append(Published(family.title(name), numbers, "; ".join(sources)))
    return pieces


def class_rows(result: TaskResult, metric: str, count: Callable[[Mapping[str, Any]], str]) -> list[Row]:
    """Return a row for the metric of each class, those at both ends of many; `count` says what stands beside its name."""
    shown = ends(list(result.entry["per_class"].items()), lambda pair: pair[1][metric]["value"])
    return [
        Row(entry[metric], name, references=references_of(result.entry, name), count=count(entry))
        for name, entry in shown
    ]
