"""The labels of the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.sample import UNKNOWN, Sample

from .base import DataSetup, Need, Rows, check_labels, needs


@needs.register("labels")
class Labels(Need):
    """`Batch.labels` [B, K] int8, a column for each of the recipe's `data.labels`."""

    hint = "name the label columns in data.labels"
    in_batch = True

    def open(self, setup: DataSetup) -> None:
        self.labels = check_labels(self, setup)

    def holds(self) -> str:
        return f"any of the `labels` {list(self.labels)}: name columns that are there in data.labels"

    def is_in(self, sample: Sample) -> bool:
        return any(sample.labels.get(name, UNKNOWN) != UNKNOWN for name in self.labels)

    def collate(self, rows: Rows) -> Tensor:
        table = [[sample.labels.get(name, UNKNOWN) for name in self.labels] for sample in rows.samples]
        return torch.tensor(table, dtype=torch.int8).reshape(len(table), len(self.labels))
