"""Frozen image embeddings: linear probes on shares of the training data, and a robustness index over nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from vlp.core.config import config

from ..bootstrap import Resamples
from ..data.checks import check_labels
from ..data.dataset import Data, Findings
from ..data.spec import DataError
from ..intervals import Part, auroc_part, of_draws, of_macro
from ..metrics.arithmetic import unit
from ..metrics.shift import neighbour_counts, robustness
from ..results import metric
from ..zero_shot.classifier import UNKNOWN
from .base import Context, Outcome, Plan, Task, families, require_any, words_of
from .classification.labels import labels_of

Table = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Unit rows of images [n, D] and the labels of classes [n, C]."""


@config
class Settings:
    """A logistic regression per class on embeddings of `train`, from `shares` of its images or `shots` of each outcome.

    `strength` is scikit-learn's C. Each share is drawn once per seed; the score is the mean over seeds, with their spread.
    """

    classes: tuple[str, ...]
    truth: str = "labels"
    train: str = "train"
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.1, 1.0)
    shots: tuple[PositiveInt, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    strength: PositiveFloat = 0.316
    primary_share: float = 1.0


@families.register("probe")
class Probe(Task[Plan]):
    """Macro AUROC of linear probes."""

    Config = Settings
    needs = frozenset({"labels", "train"})
    titles, meanings = words_of("probe")

    def check(self, data: Data) -> Findings:
        return check_labels(data, {name: (name,) for name in self.settings.classes}, self.settings.truth)

    def plan(self, context: Context) -> Plan:
        return Plan(images=require_any(context.usable, "an image", context.data))

    def run(self, context: Context, plan: Plan) -> Outcome:
        train = context.split(self.settings.train)
        if train is None:
            raise DataError(f"{context.data.name} has no split {self.settings.train!r} to fit a probe on")
        seen = self._table(context, train, train.usable())
        test = self._table(context, context.data, plan.images)
        count, drawn, settings = len(seen[0]), context.draw(plan.images), self.settings
        outcome = Outcome(plan.images, {}, scoring={"probe": "logistic regression", "C": settings.strength})
        outcome.scoring["train_images"] = count
        for share in settings.shares:
            chosen = [_share(count, share, seed) for seed in settings.seeds]
            found = [self._areas(seen, test, drawn, rows) for rows in chosen]
            entry = _over_seeds(found, share == settings.primary_share) | ({"images": len(chosen[0])} if chosen else {})
            outcome.metrics[f"auroc_{share:g}"] = entry
        for shots in settings.shots:
            found = [self._areas(seen, test, drawn, np.arange(count), shots, seed) for seed in settings.seeds]
            outcome.metrics[f"auroc_{shots}_shots"] = _over_seeds(found, False)
        return outcome

    def _table(self, context: Context, data: Data, indices: Sequence[int]) -> Table:
        labels = labels_of(data, indices, self.settings.classes, self.settings.truth)
        return unit(context.cache.images(data, indices)), labels

    def _areas(
        self, seen: Table, test: Table, drawn: Resamples, chosen: NDArray[np.int64], shots: int = 0, seed: int = 0
    ) -> dict[str, Part]:
        """Return the AUROC of each class's probe; classes without both outcomes are left out."""
        from sklearn.linear_model import LogisticRegression

        result = {}
        for name, truth, of_test in zip(self.settings.classes, seen[1].T, test[1].T, strict=True):
            rows = chosen[truth[chosen] != UNKNOWN]
            if shots:
                rows = _shots(rows, truth, shots, seed)
            known = of_test != UNKNOWN
            if len(set(truth[rows].tolist())) < 2:
                continue
            model = LogisticRegression(C=self.settings.strength, class_weight="balanced", max_iter=2000)
            model.fit(seen[0][rows], truth[rows])
            part = auroc_part(of_test[known], model.decision_function(test[0][known]), drawn[known])
            if part is not None:
                result[name] = part
        return result


def _over_seeds(found: Sequence[Mapping[str, Part]], main: bool) -> dict[str, Any]:
    """Return the mean over seeds; its interval resamples the test patients, `std` is the spread over seeds."""
    means = [float(np.mean([part.value for part in parts.values()])) for parts in found if parts]
    shares = [1 / (len(means) * len(parts)) for parts in found for _ in parts]
    classes = {
        name: float(np.mean([parts[name].value for parts in found if name in parts]))
        for name in dict.fromkeys(name for parts in found for name in parts)
    }
    value = float(np.mean(means)) if means else None
    bounds = of_macro([part for parts in found for part in parts.values()], shares)
    reason = "no class has both outcomes in the share that was drawn"
    entry = metric(value, bounds, chance=0.5, primary=main, reason=reason)
    spread = float(np.std(means)) if means else None
    return entry | {"n_classes": len(classes), "by_class": classes, "seeds": len(means), "std": spread}


def _share(count: int, share: float, seed: int) -> NDArray[np.int64]:
    size = max(2, round(count * share))
    return np.sort(np.random.default_rng(seed).permutation(count)[:size])


def _shots(rows: NDArray[np.int64], labels: NDArray[np.int64], shots: int, seed: int) -> NDArray[np.int64]:
    mixed = np.random.default_rng(seed).permutation(rows)
    return np.concatenate([mixed[labels[mixed] == outcome][:shots] for outcome in (0, 1)])


@config
class RobustSettings:
    """`biology`: images that show exactly one of these labels; `centre`: the group column of where they were made."""

    biology: tuple[str, ...]
    centre: str = "site"
    k: tuple[PositiveInt, ...] = (5, 10, 20)
    primary_k: int = 10
    truth: str = "labels"


@dataclass(kw_only=True)
class Members(Plan):
    """Images with exactly one finding, that finding [n] and their centre [n]."""

    kind: list[str]
    centre: list[str]


@families.register("robustness")
class RobustnessIndex(Task[Members]):
    """Whether nearest neighbours share the finding or the hospital: SO / (SO + OS), 1 is biology alone (PathoROB)."""

    Config = RobustSettings
    needs = frozenset({"labels"})
    titles, meanings = words_of("robustness")
    unbounded = r"robustness_ratio@\d+"

    def check(self, data: Data) -> Findings:
        return check_labels(data, {name: (name,) for name in self.settings.biology}, self.settings.truth)

    def plan(self, context: Context) -> Members:
        table = labels_of(context.data, context.usable, self.settings.biology, self.settings.truth)
        found = []
        for index, row in zip(context.usable, table, strict=True):
            centre = context.data.records[index].groups.get(self.settings.centre)
            if (row == 1).sum() == 1 and centre:
                found.append((index, self.settings.biology[int((row == 1).argmax())], centre))
        what = f"exactly one of the findings and a {self.settings.centre}"
        require_any([index for index, *_ in found], what, context.data)
        images, kind, centres = map(list, zip(*found, strict=True))
        return Members(images=images, kind=kind, centre=centres)

    def run(self, context: Context, plan: Members) -> Outcome:
        indices, kind, centre = plan.images, plan.kind, plan.centre
        if len(set(centre)) < 2 or len(set(kind)) < 2:
            raise DataError(
                f"{context.data.name}: the robustness index needs two findings and two of {self.settings.centre}"
            )
        rows = context.cache.images(context.data, indices)
        owners = [context.data.patient(index) for index in indices]
        resamples = context.draw(indices)
        outcome = Outcome(indices, {}, scoring={"distance": "cosine", "left_out": "same patient"})
        for k in self.settings.k:
            each = neighbour_counts(rows, kind, centre, k, owners)
            drawn = robustness(resamples.weights @ each)  # whose neighbours count; who they are stays as it is
            values = [float(value) if np.isfinite(value) else None for value in robustness(each.sum(0))]
            index, share = (of_draws(draws, resamples, resamples.patients) for draws in drawn)
            counts = dict(zip(("ss", "so", "os", "oo"), each.sum(0).tolist(), strict=True))
            reason, main = "no neighbour differs in one of the two alone", k == self.settings.primary_k
            entry = metric(values[0], index, chance=_chance(kind, centre), primary=main, reason=reason)
            outcome.metrics[f"robustness_index@{k}"] = entry | counts
            outcome.metrics[f"robustness_ratio@{k}"] = metric(values[1], share, reason=reason)
        return outcome


def _chance(kind: Sequence[str], centre: Sequence[str]) -> float:
    """Return the index of random neighbours: pairs of SO among pairs of SO and OS."""
    kinds, places = np.unique(kind, return_inverse=True)[1], np.unique(centre, return_inverse=True)[1]
    same_kind, same_place = kinds[:, None] == kinds, places[:, None] == places
    alone, swapped = int((same_kind & ~same_place).sum()), int((~same_kind & same_place).sum())
    return alone / (alone + swapped) if alone + swapped else 0.5
