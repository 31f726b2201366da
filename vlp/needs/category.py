"""One label of each sample, drawn among those that are present."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlp.sample import PRESENT, UNCERTAIN, Sample

from .base import Rows, needs
from .labels import Labels


@needs.register("extras.category")
class Category(Labels):
    """`Batch.extras["category"]` [B] int64, counted from 1; K + 1 where all labels are absent, 0 where that is not known."""

    key = "category"
    stream = 4

    def prepare(self, sample: Sample, rng: np.random.Generator | None) -> int:
        stated = [sample.labels[name] for name in self.labels if name in sample.labels]
        present = [index for index, name in enumerate(self.labels) if sample.labels.get(name) == PRESENT]
        if not present:
            return len(self.labels) + 1 if stated and UNCERTAIN not in stated else 0
        return 1 + present[0 if rng is None else int(rng.integers(len(present)))]

    def collate(self, rows: Rows) -> Tensor:
        return torch.tensor(rows.prepared, dtype=torch.int64)
