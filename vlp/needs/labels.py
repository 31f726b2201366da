"""The labels of the samples, one of them drawn, and what the shown texts say of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry
from vlp.sample import PRESENT, UNCERTAIN, UNKNOWN, Sample

from .assertions import finding_assertions
from .base import DataSetup, Need, Rows, needs


@needs.register("labels")
class Labels(Need):
    """`Batch.labels` [B, K] int8, a column for each of the recipe's `data.labels`."""

    hint = "name the label columns in data.labels"
    in_batch = True

    def open(self, setup: DataSetup) -> None:
        if not setup.labels:
            raise ConfigError(
                f"an objective needs {self.name}, and there are no label columns: name them in data.labels"
            )
        self.labels = setup.labels

    def holds(self) -> str:
        return f"any of the `labels` {list(self.labels)}: name columns that are there in data.labels"

    def is_in(self, sample: Sample) -> bool:
        return any(sample.labels.get(name, UNKNOWN) != UNKNOWN for name in self.labels)

    def collate(self, rows: Rows) -> Tensor:
        return self._table([[sample.labels.get(name, UNKNOWN) for name in self.labels] for sample in rows.samples])

    def _table(self, values: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int8).reshape(len(values), len(self.labels))


@needs.register("extras.category")
class Category(Labels):
    """`Batch.extras["category"]` [B] int64, counted from 1; K + 1 where all labels are absent, 0 where that is not known."""

    key = "category"
    stream = 4

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> int:
        stated = [sample.labels[name] for name in self.labels if name in sample.labels]
        present = [index for index, name in enumerate(self.labels) if sample.labels.get(name) == PRESENT]
        if not present:
            return len(self.labels) + 1 if stated and UNCERTAIN not in stated else 0
        return 1 + present[0 if rng is None else int(rng.integers(len(present)))]

    def collate(self, rows: Rows) -> Tensor:
        return torch.tensor(rows.prepared, dtype=torch.int64)


@needs.register("extras.text_labels")
class TextLabels(Labels):
    """`Batch.extras["text_labels"]` [B, K] int8: what the text that is shown says of each label, a concept's code."""

    key = "text_labels"
    hint = "name the labels in data.labels, by the codes of the concepts"

    def holds(self) -> str:
        return (
            f"any `concepts` whose code is one of data.labels {list(self.labels)}: what a text says of a label is read off "
            "its mentions: use columns named by the concepts' codes"
        )

    def is_in(self, sample: Sample) -> bool:
        return any(mention.code in self.labels for mention in sample.concepts)

    def collate(self, rows: Rows) -> Tensor:
        pairs = zip(rows.samples, rows.shown, strict=True)
        return self._table([finding_assertions(shown.mentions(sample), self.labels) for sample, shown in pairs])
