"""Zero-shot classification: images against prompts, multi-label (one AUROC per finding) or multi-class (argmax)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.registry import did_you_mean

from ...bootstrap import Resamples
from ...data.checks import check_labels
from ...data.dataset import Data, Findings
from ...data.labels import group_of
from ...data.spec import DataError
from ...drawing.cards import Section
from ...drawing.wording import confusion_figure
from ...intervals import Part, auroc_part, of_average_precision, of_draws, of_macro, of_mean
from ...metrics.calibration import calibration_error
from ...metrics.decisions import class_decisions
from ...metrics.ranking import Ranking, average_precision, best_f1, sensitivity_at_specificity, youden
from ...results import TaskResult, macro_metric, metric
from ...zero_shot import prompts as prompt_files
from ...zero_shot.classifier import UNKNOWN, Scores, by_study, score, with_no_finding
from ...zero_shot.prompts import PromptSet
from ...zero_shot.scoring import Scoring
from ..base import Auroc, Comparable, Context, Mean, MeanAuroc, Outcome, Plan, Task, families, require_any, words_of
from . import figures
from .decisions import decided_class, decided_macro
from .labels import Settings, fewest, truth_of, uncertain
from .subgroups import by_subgroup, left_out_words, mean_part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(kw_only=True)
class Labelled(Plan):
    """Images, the records that stand in the results (`views: mean`: the first image of each study), their labels [n, C]."""

    records: list[int]
    truth: Ints

    @property
    def scored_records(self) -> list[int]:
        return self.records


@families.register("classification")
class Classification(Task[Labelled]):
    Config: ClassVar[type] = Settings
    needs = frozenset({"labels"})
    titles, meanings = words_of("classification")

    def __init__(self, spec: Any, settings: Settings, folder: Any = None) -> None:
        super().__init__(spec, settings, folder)
        self.scoring: Scoring = settings.scoring
        if not settings.classes or not settings.prompts:
            raise ConfigError(f"task {spec.id}: `{'prompts' if settings.classes else 'classes'}` is empty")
        for label in settings.aliases or {}:
            if label not in settings.classes:
                raise ConfigError(f"task {spec.id}: aliases of {label!r}{did_you_mean(label, settings.classes)}")
        other = {"multilabel": "per_class", "multiclass": "calibrate"}[settings.kind]
        if getattr(settings, other) is not None:
            raise ConfigError(f"task {spec.id}: {other} does nothing in a {settings.kind} task")
        if settings.no_finding is not None and settings.no_finding not in settings.classes:
            raise ConfigError(f"task {spec.id}: no_finding {settings.no_finding!r} is none of the classes")
        pairs = self.scoring.rule in ("pair", "xplainer")
        self.derived = settings.no_finding if self.scoring.rule == "xplainer" else None
        asked = [name for name in settings.classes if name != self.derived]
        self.sets = [prompt_files.read(prompt_set, asked, folder, pairs) for prompt_set in settings.prompts]

    @classmethod
    def comparable(cls, result: TaskResult) -> dict[str, Comparable]:
        """Return the AUROCs, or whether each image's class was predicted: of equal scores the first, as in the run."""
        if "accuracy" in result.metrics:
            answers = [max(row["scores"], key=row["scores"].__getitem__) for row in result.rows]
            right = [float(row["labels"].get(name) == 1) for row, name in zip(result.rows, answers, strict=True)]
            return {"accuracy": Mean(right)}
        found: dict[str, Comparable] = {}
        if counted := result.metrics["auroc_macro"].get("classes"):
            found["auroc_macro"] = MeanAuroc(tuple(f"auroc {name}" for name in counted))
        for name in result.rows[0]["scores"]:
            labels = [row["labels"].get(name) for row in result.rows]
            found[f"auroc {name}"] = Auroc(labels, [row["scores"][name] for row in result.rows])
        return found

    @classmethod
    def class_metrics(cls, entry: Mapping[str, Any]) -> list[str]:
        return ["auroc"]

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        return figures.section(cls, result)

    def check(self, data: Data) -> Findings:
        called = {name: self.settings.names_of(name) for name in self.settings.classes}
        return check_labels(data, called, self.settings.truth)

    def describe(self) -> dict[str, Any]:
        return {"scoring": self._rule(), "prompts": [prompt_set.to_tree() for prompt_set in self.sets]}

    def _rule(self) -> dict[str, Any]:
        tree = self.scoring.stated()
        if self.scoring.local and self.scoring.local_text == "words":
            tree["local_words"] = self.sets[0].named()
        return tree

    def select(self, context: Context) -> tuple[list[int], Ints]:
        """Return the records that count and their labels [n, C]."""
        table = truth_of(context.data, context.usable, self.settings)
        if self.settings.kind == "multiclass":
            keep = (table == 1).sum(1) == 1
            if self.settings.uncertain == "exclude":
                keep &= ~uncertain(context, self.settings.classes)
            if self.settings.per_class:
                keep &= fewest(context, np.where(keep, (table == 1).argmax(1), -1), self.settings.per_class)
        else:
            keep = (table != UNKNOWN).any(1)
        indices = [index for index, kept in zip(context.usable, keep, strict=True) if kept]
        return require_any(indices, f"a label of {', '.join(self.settings.classes)}", context.data), table[keep]

    def plan(self, context: Context) -> Labelled:
        indices, truth = self.select(context)
        texts = [text for prompt_set in self.sets for text in prompt_set.all()]
        records = indices
        if self.scoring.views == "mean":
            records, truth = by_study(context.data, indices, truth)
        local = indices if self.scoring.local else []
        return Labelled(images=indices, patches=local, texts=texts, records=records, truth=truth)

    def run(self, context: Context, plan: Labelled) -> Outcome:
        scores = [self.scores(context, context.data, plan.images, prompt_set) for prompt_set in self.sets]
        drawn, outcome = context.draw(plan.records), Outcome(plan.records, {})
        enter = self._multiclass if self.settings.kind == "multiclass" else self._multilabel
        enter(context, outcome, plan.truth, scores, drawn)
        outcome.rows = self._rows(context, plan.records, plan.truth, scores[0])
        outcome.prompts = [prompt_set.to_tree() for prompt_set in self.sets]
        outcome.scoring = self._rule() | {"temperature": scores[0].temperature, "ties": "half"}
        return outcome

    def scores(self, context: Context, data: Data, indices: Sequence[int], prompts: PromptSet) -> Scores:
        """Return the scores of images (of studies under `views: mean`) against one set of prompts."""
        found = score(context.cache, data, indices, prompts, self.scoring)
        return with_no_finding(found, self.settings.classes.index(self.derived)) if self.derived else found

    def _held_out(self, context: Context) -> tuple[Scores, Ints] | None:
        """Return scores and labels [n, C] of the split that a temperature is fitted on."""
        data = context.split(self.settings.calibrate) if self.settings.calibrate else None
        if data is None:
            return None
        indices = data.usable()
        scores, truth = self.scores(context, data, indices, self.sets[0]), truth_of(data, indices, self.settings)
        return scores, by_study(data, indices, truth)[1] if self.scoring.views == "mean" else truth

    def _class_scores(
        self, outcome: Outcome, truth: Ints, ranking: Floats, main: Scores, drawn: Resamples, ece: str
    ) -> dict[str, dict[str, Part]]:
        """Enter the scores of each class by itself, `ece` being what its ECE is called; return those of the defined ones."""
        parts: dict[str, dict[str, Part]] = {}
        left_out: dict[str, list[str]] = {}
        for column, name in enumerate(self.settings.classes):
            known = truth[:, column] != UNKNOWN
            labels, values, probability = truth[known, column], ranking[known, column], main.probability[known, column]
            entry = outcome.per_class[name] = {"n_pos": int((labels == 1).sum()), "n_neg": int((labels == 0).sum())}
            if missing := [words for words, key in (("positive", "n_pos"), ("negative", "n_neg")) if not entry[key]]:
                reason = "no label" if len(missing) > 1 else f"no {missing[0]}"
                entry |= {"auroc": metric(None, reason=reason), "ap": metric(None, reason=reason)}
                left_out.setdefault(reason, []).append(name)
                continue
            inside = drawn[known]
            parts[name] = self._ranking_scores(entry, labels, values, inside)
            entry[ece] = metric(calibration_error(probability, labels), higher_is_better=False, reason="no samples")
            parts[name] |= decided_class(entry, labels, main.decision[known, column], inside)
        outcome.warnings += left_out_words(left_out)
        return parts

    def _ranking_scores(self, entry: dict[str, Any], labels: Ints, values: Floats, drawn: Resamples) -> dict[str, Part]:
        """Enter what is scored of a class's ranking; return its AUROC and average precision."""
        first, precision = auroc_part(labels, values, drawn), average_precision(labels, values)
        assert first is not None and precision is not None
        draws = Ranking.of(labels, values).average_precision(drawn.weights)
        second = Part(precision, draws, of_average_precision(precision, labels, draws, drawn))
        entry["auroc"] = metric(first.value, first.interval, chance=0.5)
        entry["ap"] = metric(precision, second.interval, chance=entry["n_pos"] / len(labels))
        at = f"sensitivity_at_{self.settings.specificity:g}_specificity"
        entry[at] = metric(sensitivity_at_specificity(labels, values, self.settings.specificity))
        entry["f1_best"] = metric(best_f1(labels, values), note="threshold chosen on this data")
        entry["youden"] = youden(labels, values)
        return {"auroc": first, "ap": second}

    # multi-label

    def _multilabel(
        self, context: Context, outcome: Outcome, truth: Ints, scores: Sequence[Scores], drawn: Resamples
    ) -> None:
        main, names = scores[0], self.settings.classes
        parts = self._class_scores(outcome, truth, main.ranking, main, drawn, "ece")
        for name, entry in outcome.per_class.items():
            outcome.prevalence[name] = entry["n_pos"] / max(1, entry["n_pos"] + entry["n_neg"])
        counted = [name for name in parts if name != self.settings.no_finding]
        if not counted:
            raise DataError(f"{context.data.name}: none of the classes has both positives and negatives")
        facts: dict[str, Any] = {"n_classes": len(counted), "classes": counted}
        facts["undefined"] = [name for name in names if name not in parts]
        base = float(np.mean([outcome.prevalence[name] for name in counted]))
        for key, chance in (("auroc", 0.5), ("ap", base)):
            value = float(np.mean([outcome.per_class[name][key]["value"] for name in counted]))  # as they are stated
            bounds = of_macro([parts[name][key] for name in counted])
            outcome.metrics[f"{key}_macro"] = metric(value, bounds, chance=chance, primary=key == "auroc", **facts)
        wording = {
            prompt_set.name: {
                name: area
                for name, area in figures.class_areas(names, truth, of_set.ranking).items()
                if name in counted
            }
            for prompt_set, of_set in zip(self.sets, scores, strict=True)
        }
        if len(scores) > 1:
            means = {name: float(np.mean(list(values.values()))) for name, values in wording.items()}
            outcome.metrics["auroc_macro_over_prompt_sets"] = over_sets(means, chance=0.5)
        outcome.metrics |= decided_macro(outcome.per_class, counted, parts)

        def inside(members: NDArray[np.bool_]) -> Part | None:
            found = []
            for name in counted:
                known = members & (truth[:, names.index(name)] != UNKNOWN)
                labels, values = (table[known, names.index(name)] for table in (truth, main.ranking))
                found.append(auroc_part(labels, values, drawn[known]))
            defined = [part for part in found if part is not None]
            return mean_part(defined) if len(defined) == len(counted) else None

        by_subgroup(context, outcome, self.settings, "auroc_macro", 0.5, inside)
        columns, error = [names.index(name) for name in counted], outcome.metrics["ece_macro"]["value"]
        held_out, split = self._held_out(context), self.settings.calibrate
        outcome.figures = {
            "curves": figures.curves(names, truth, main.ranking, drawn.weights),
            "calibration": figures.calibration(truth, main, error, columns, held_out, split),
            "confusion": figures.single_finding_confusion(names, truth, main.ranking),
            "wording": wording,
        }

    def _rows(self, context: Context, indices: Sequence[int], truth: Ints, main: Scores) -> list[dict[str, Any]]:
        rows, names = [], self.settings.classes
        for index, labels, scores in zip(indices, truth, main.ranking.tolist(), strict=True):
            known = {name: int(label) for name, label in zip(names, labels, strict=True) if label != UNKNOWN}
            groups = {subgroup: group_of(context.data.records[index], subgroup) for subgroup in self.settings.subgroups}
            values = dict(zip(names, scores, strict=True))
            rows.append(context.row(index) | {"labels": known, "scores": values, "groups": groups})
        return rows

    # multi-class

    def _multiclass(
        self, context: Context, outcome: Outcome, truth: Ints, scores: Sequence[Scores], drawn: Resamples
    ) -> None:
        from sklearn.metrics import confusion_matrix

        main, names = scores[0], self.settings.classes
        answer, decided = (truth == 1).argmax(1), main.ranking.argmax(1)
        right = (answer == decided).astype(np.float64)
        share = np.bincount(answer, minlength=len(names)) / len(answer)
        outcome.prevalence = dict(zip(names, share.tolist(), strict=True))
        present = int((share > 0).sum())
        if present < 2:
            raise DataError(f"{context.data.name}: only one of the classes {', '.join(names)} occurs")
        outcome.metrics["accuracy"] = metric(
            float(right.mean()), of_mean(right, drawn), chance=float(share.max()), primary=True, n_classes=present
        )
        seen = class_decisions(answer, decided, len(names), np.ones(len(answer)))
        draws = class_decisions(answer, decided, len(names), drawn.weights[:300])
        for name, chance in {"balanced_accuracy": 1 / present, "f1": None, "kappa": 0.0, "mcc": 0.0}.items():
            value = float(seen[name][0])
            bounds = of_draws(draws[name], drawn, drawn[right == 0].patients)
            reason = "one class is always chosen"
            entry = metric(value if np.isfinite(value) else None, bounds, chance=chance, reason=reason)
            outcome.metrics["f1_macro" if name == "f1" else name] = entry
        one_hot = np.eye(len(names), dtype=np.int64)[answer]
        parts = self._class_scores(outcome, one_hot, main.probability, main, drawn, "ece_one_against_rest")
        areas = [found["auroc"] for found in parts.values()]
        outcome.metrics["auroc_macro"] = macro_metric(areas, chance=0.5, n_classes=len(areas))

        def inside(members: NDArray[np.bool_]) -> Part | None:
            kept, hits = drawn[members], right[members]
            return Part(float(hits.mean()), kept.means(hits), of_mean(hits, kept))

        by_subgroup(context, outcome, self.settings, "accuracy", None, inside)
        confidence = main.probability.max(1)
        error = calibration_error(confidence, right)
        outcome.metrics["ece"] = metric(error, higher_is_better=False, reason="no samples")
        if len(scores) > 1:
            shares = [float((answer == of_set.ranking.argmax(1)).mean()) for of_set in scores]
            sets = {prompt_set.name: share for prompt_set, share in zip(self.sets, shares, strict=True)}
            outcome.metrics["accuracy_over_prompt_sets"] = over_sets(sets)
        counts = confusion_matrix(answer, decided, labels=range(len(names)))
        outcome.figures = {
            "curves": figures.curves(names, one_hot, main.probability, drawn.weights),
            "confusion": confusion_figure("Confusion", names, counts),
            "calibration": [figures.reliability_bins("uncalibrated", confidence, right, main.temperature, error)],
        }


def over_sets(values: dict[str, float], chance: float | None = None) -> dict[str, Any]:
    """Return the mean of a score over prompt sets, with how far these lie apart."""
    found = list(values.values())
    spread = max(found) - min(found)
    return metric(float(np.mean(found)), chance=chance, spread=spread, std=float(np.std(found)), sets=values)
