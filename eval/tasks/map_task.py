"""Tasks that score maps of phrases, each score beside its controls: what grounding and segmentation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vlp.core.config import to_tree

from ..drawing.cards import Card, Forest, Note, Piece, Row, Section, Table, scale_of
from ..drawing.wording import hidden
from ..results import TaskResult
from .base import Selection, Task, class_rows, is_unbounded, published
from .controls import CONTROLS, SHORT


class MapTask(Task[Selection]):
    """A task on maps of patch features, or of a saliency method that needs the model itself."""

    controls: ClassVar[Mapping[str, str]] = SHORT

    def needs_model(self) -> bool:
        return bool(self.settings.source != "patches")

    def describe(self) -> dict[str, Any]:
        return {"scoring": to_tree(self.settings)}

    @classmethod
    def title(cls, name: str) -> str:
        for control, words in CONTROLS.items():
            if name.endswith(f"_{control}") and "minus" not in name:
                return f"{cls.title(name.removesuffix(f'_{control}'))}: {words}"
        if name.startswith("bare_"):
            return f"{cls.title(name.removeprefix('bare_'))}, phrases without a location"
        return super().title(name)

    @classmethod
    def section(cls, result: TaskResult) -> Section:
        """Return the main scores beside their controls, a table of all scores beside theirs, and the scores of classes."""
        main = cls.class_metrics(result.entry)[0]
        rows = class_rows(result, main, lambda entry: f"{entry['n']:,}")
        per_class: list[Piece] = [Forest(rows)]
        if words := hidden(len(result.entry["per_class"])):
            per_class.append(Note(words))
        return [_main(cls, result), [_table(cls, result), Card(f"{cls.title(main)} by finding", per_class)]]


def _main(family: type[Task[Any]], result: TaskResult) -> list[Card]:
    """Return a card for each main score, for phrases with a location and for those without."""
    bare = any(name.startswith("bare_") for name in result.metrics)
    kinds = {"": ", phrases with a location", "bare_": ", phrases without a location"} if bare else {"": ""}
    cards = []
    for name in family.class_metrics(result.entry):
        for prefix, words in kinds.items():
            of_controls = {f"_{control}": (title, "control") for control, title in CONTROLS.items()}
            styles = {"": ("model", "main")} | of_controls
            known = {
                (title, style): entry
                for end, (title, style) in styles.items()
                if (entry := result.metrics.get(f"{prefix}{name}{end}")) and entry["value"] is not None
            }
            scale = scale_of(known.values(), bounded=not is_unbounded(family, name))
            if ("model", "main") in known:
                rows = [Row(entry, title, scale, style=style) for (title, style), entry in known.items()]
                cards.append(Card(f"{family.title(name)}{words}", [Forest(rows)]))
    return cards


def _table(family: type[Task[Any]], result: TaskResult) -> Card:
    """Return each score with its controls, for phrases that name a place; means over findings have none."""
    metrics = result.metrics
    rows = []
    for name in metrics:
        keys = [name, *(f"{name}_{control}" for control in CONTROLS)]
        if not name.startswith("bare_") and (name.endswith("_macro") or any(key in metrics for key in keys[1:])):
            values = [metrics[key]["value"] if key in metrics else None for key in keys]
            rows.append((family.title(name), *values))
    note = Note("A score is evidence of grounding only as far as it exceeds its controls.")
    table = Table(("", "model", *SHORT.values()), rows, "controls")
    return Card("Scores and their controls", [table, note, *published(family, result)])
