"""A second view of each text: another random part of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlp.batch import Batch, ModelOutput, Tokens
from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry
from vlp.sample import Sample

from .base import DataSetup, Features, Model, Need, Rows, needs


@needs.register("text_view")
class TextView(Need):
    """`Batch.text_view`, and its embeddings `ModelOutput.text_view` [B, D]."""

    hint = "show random parts of texts: data.text.subset or data.text.sentence"
    stream = 3

    def open(self, setup: DataSetup) -> None:
        if not setup.is_random:
            raise ConfigError(
                "an objective needs text_view, another random part of the text: set data.text.subset or data.text.sentence"
            )
        self.select = setup.select_text

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> str:
        return self.select(sample, rng).text

    def texts(self, prepared: Sequence[str]) -> list[str]:
        return list(prepared)

    def collate(self, rows: Rows) -> Tokens:
        return rows.own

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        if batch.text_view is not None:
            output.text_view = model.embed_texts(batch.text_view, features.has_text)
