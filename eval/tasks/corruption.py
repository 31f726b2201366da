"""Classification under image corruption, and out-of-distribution (OOD) detection by class scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from vlp.core.config import ConfigError, config
from vlp.core.registry import did_you_mean

from ..bootstrap import Resamples, draw
from ..data.corruptions import CORRUPTIONS
from ..data.dataset import Data
from ..data.spec import DataError
from ..drawing.cards import Section
from ..embeddings.decode_ahead import Transform
from ..intervals import Part, auroc_part, of_auroc, of_draws
from ..metrics.ranking import Ranking
from ..metrics.shift import energy, max_softmax, out_of_distribution
from ..results import TaskResult, macro_metric, metric
from ..zero_shot import prompts as prompt_files
from ..zero_shot.classifier import UNKNOWN, Scores, score
from ..zero_shot.scoring import Scoring
from .base import Comparable, Context, Outcome, Plan, Task, families, scores_card, words_of
from .classification.labels import Settings as ClassSettings
from .classification.subgroups import mean_part
from .classification.task import Classification, Labelled

Severity = Annotated[int, Field(ge=1, le=5)]


@config
class Settings(ClassSettings):
    """A classification, repeated on images with each of `corruptions` at each of `severities` (1 to 5)."""

    corruptions: tuple[str, ...] = ("noise", "blur", "contrast", "occlusion")
    severities: tuple[Severity, ...] = (1, 3, 5)
    limit: PositiveInt | None = None


@families.register("corruption")
class Corruption(Classification):
    """Macro AUROC under corruption, with paired intervals of the loss."""

    Config = Settings
    titles, meanings = words_of("corruption")

    @classmethod
    def comparable(cls, result: TaskResult) -> dict[str, Comparable]:
        return {}

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        return [[scores_card(cls, result)]]

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        for name in settings.corruptions:
            _check(spec.id, name)
        if settings.kind != "multilabel":
            raise ConfigError(f"task {spec.id}: corruption is for multi-label tasks")
        for name in ("subgroups", "calibrate"):
            if getattr(settings, name):
                raise ConfigError(
                    f"task {spec.id}: {name} does nothing in a corruption task; ask a classification for it"
                )
        if settings.scoring.views != "none" or settings.scoring.local or self.derived:
            raise ConfigError(f"task {spec.id}: corruption scores single whole images of named findings")

    def select(self, context: Context) -> tuple[list[int], NDArray[np.int64]]:
        indices, truth = super().select(context)
        return indices[: self.settings.limit], truth[: self.settings.limit]

    def run(self, context: Context, plan: Labelled) -> Outcome:
        indices, truth = plan.images, plan.truth
        resamples = context.draw(indices)
        parts = self._parts(truth, score(context.cache, context.data, indices, self.sets[0], self.scoring), resamples)
        if not parts:
            raise DataError(f"{context.data.name}: none of the classes has both positives and negatives")
        clean = mean_part(parts)
        few = min(
            min(resamples[truth[:, column] == side].patients for side in (0, 1))
            for column in range(truth.shape[1])
            if {0, 1} <= set(truth[:, column].tolist())
        )
        outcome = Outcome(indices, {}, prompts=[self.sets[0].to_tree()])
        outcome.metrics["auroc_macro"] = metric(clean.value, clean.interval, chance=0.5)
        every: list[Part] = []
        for name in self.settings.corruptions:
            by, parts = {}, []
            for severity in self.settings.severities:
                view: Transform = partial(_apply, name, severity)
                title = f"{name}-{severity}"
                scores = score(context.cache, context.data, indices, self.sets[0], self.scoring, title, view)
                found = self._parts(truth, scores, resamples)
                by[str(severity)] = float(np.mean([part.value for part in found]))
                parts += found
            every += parts
            mean = mean_part(parts)
            outcome.metrics[f"auroc_{name}"] = metric(mean.value, mean.interval, chance=0.5, by_severity=by)
            change = of_draws(mean.draws - clean.draws, resamples, few)
            outcome.metrics[f"change_{name}"] = metric(mean.value - clean.value, change)
        outcome.metrics["auroc_corrupted"] = macro_metric(every, chance=0.5, primary=True)
        return outcome

    def _parts(self, truth: NDArray[np.int64], scores: Scores, drawn: Resamples) -> list[Part]:
        """Return the AUROC of each class with both outcomes."""
        parts = []
        for column in range(truth.shape[1]):
            known = truth[:, column] != UNKNOWN
            parts.append(auroc_part(truth[known, column], scores.ranking[known, column], drawn[known]))
        return [part for part in parts if part is not None]


def _check(task: str, name: str) -> None:
    if name not in CORRUPTIONS:
        raise ConfigError(f"task {task}: no corruption {name!r}{did_you_mean(name, CORRUPTIONS)}")


def _apply(name: str, severity: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return CORRUPTIONS[name](pixels, severity)


SCORES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "msp": max_softmax,
    "max_logit": partial(np.max, axis=-1),
    "energy": energy,
}


@config
class OutSettings:
    """In-distribution images are the task's data. OOD images are other records: those of `out_folder`, those that
    `out_where` picks, or the same ones under a `corruption` (scramble). Scores are of the class logits of `prompts`.
    """

    classes: tuple[str, ...]
    prompts: str
    out_where: dict[str, str] | None = None
    out_folder: str | None = None
    corruption: str | None = None
    severity: Severity = 1
    score: Literal["msp", "max_logit", "energy"] = "msp"
    limit: PositiveInt = 500


@families.register("ood")
class OutOfDistribution(Task[Plan]):
    """OOD detection by class scores: maximum softmax probability (MSP), largest logit, energy."""

    Config = OutSettings
    titles, meanings = words_of("ood")

    def __init__(self, spec: Any, settings: OutSettings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        self.prompts = prompt_files.read(settings.prompts, settings.classes, folder)
        self.scoring = Scoring(rule="softmax")
        if (settings.corruption is None) == (settings.out_where is None and settings.out_folder is None):
            raise ConfigError(f"task {spec.id}: give either `corruption` or `out_where` / `out_folder`")
        if settings.corruption is not None:
            _check(spec.id, settings.corruption)

    def describe(self) -> dict[str, Any]:
        return {"scoring": self.scoring.stated(), "prompts": [self.prompts.to_tree()]}

    def plan(self, context: Context) -> Plan:
        return Plan(images=context.usable[: self.settings.limit], texts=self.prompts.all())

    def _outside(self, context: Context) -> tuple[Data, list[int], str, Transform | None]:
        settings = self.settings
        if settings.corruption:
            view: Transform = partial(_apply, settings.corruption, settings.severity)
            return context.data, context.usable[: settings.limit], f"{settings.corruption}-{settings.severity}", view
        folder = settings.out_folder if settings.out_folder is not None else self.spec.data.folder
        data = context.read(replace(self.spec.data, folder=folder, where=settings.out_where))
        return data, data.usable()[: settings.limit], "", None

    def run(self, context: Context, plan: Plan) -> Outcome:
        inside = plan.images
        data, outside, name, view = self._outside(context)
        home = score(context.cache, context.data, inside, self.prompts, self.scoring)
        away = score(context.cache, data, outside, self.prompts, self.scoring, name, view)
        outcome = Outcome(inside, {}, prompts=[self.prompts.to_tree()])
        outcome.scoring = {"inside": len(inside), "outside": len(outside), "temperature": home.temperature}
        for key, function in SCORES.items():
            values = function(home.logits), function(away.logits)
            found = out_of_distribution(*values)
            assert found is not None
            labels = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
            owners = [context.data.patient(index) for index in inside] + [data.patient(index) for index in outside]
            resamples = draw(owners, context.resamples, context.seed, context.data.unit)
            drawn = Ranking.of(labels, np.r_[values]).auroc(resamples.weights)
            bounds = of_auroc(found["ood_auroc"], labels.astype(np.int64), drawn, resamples)
            main = {"primary": key == self.settings.score, "interval": bounds}
            chance = {"ood_auroc": 0.5, "fpr95": 0.95, "ap_in": len(inside) / len(labels)}
            chance |= {"ap_out": len(outside) / len(labels), "detection_accuracy": 0.5}
            for name, value in found.items():
                facts = main if name == "ood_auroc" else {"higher_is_better": name != "fpr95"}
                outcome.metrics[f"{name}_{key}"] = metric(value, chance=chance[name], **facts)
        outcome.rows = [
            context.row(index) | {"msp": float(value)}
            for index, value in zip(inside, max_softmax(home.logits), strict=True)
        ]
        return outcome
