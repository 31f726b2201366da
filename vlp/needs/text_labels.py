"""What the text that is shown says of each label."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.sample import Sample

from .assertions import finding_assertions
from .base import DataSetup, Need, Rows, check_labels, needs


@needs.register("extras.text_labels")
class TextLabels(Need):
    """`Batch.extras["text_labels"]` [B, K] int8, in the order of the recipe's `data.labels`, which are concept codes."""

    key = "text_labels"
    hint = "name the labels in data.labels, by the codes of the concepts"
    in_batch = True

    def open(self, setup: DataSetup) -> None:
        self.labels = check_labels(self, setup)

    def holds(self) -> str:
        return (
            f"any `concepts` whose code is one of data.labels {list(self.labels)}: what a text says of a label is read off "
            "its mentions: use columns named by the concepts' codes"
        )

    def is_in(self, sample: Sample) -> bool:
        return any(mention.code in self.labels for mention in sample.concepts)

    def collate(self, rows: Rows) -> Tensor:
        table = [
            finding_assertions(shown.mentions(sample), self.labels)
            for sample, shown in zip(rows.samples, rows.shown, strict=True)
        ]
        return torch.tensor(table, dtype=torch.int8).reshape(len(table), len(self.labels))
