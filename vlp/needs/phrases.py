"""The sentences that assert a finding, each embedded on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlp.batch import Batch, Phrases, Tokens
from vlp.modalities.geometry import Geometry
from vlp.sample import Sample, code_of, concept_text, mentions_by_sentence

from .base import BUILD, Need, Rows, needs

Phrase = tuple[str, int]
"""A sentence, and the int64 code of what it asserts."""


@needs.register("phrases")
class SentencePhrases(Need):
    """`Batch.phrases`, and their embeddings `ModelOutput.phrases` [S, D]."""

    hint = BUILD
    in_batch = True
    axis = "phrases"

    def holds(self) -> str:
        return f"any `concepts` that are present: {BUILD}"

    def is_in(self, sample: Sample) -> bool:
        return any(mention.assertion == "present" for mention in sample.concepts)

    def prepare(self, sample: Sample, rng: np.random.Generator | None, geometry: Geometry) -> list[Phrase]:
        return phrases_of(sample)

    def texts(self, prepared: Sequence[list[Phrase]]) -> list[str]:
        return [text for phrases in prepared for text, _ in phrases]

    def collate(self, rows: Rows) -> Phrases:
        owner = [row for row, phrases in enumerate(rows.prepared) for _ in phrases]
        codes = [code for phrases in rows.prepared for _, code in phrases]
        return Phrases(
            tokens=rows.own, owner=torch.tensor(owner, dtype=torch.int64), code=torch.tensor(codes, dtype=torch.int64)
        )

    def short_texts(self, batch: Batch) -> Tokens | None:
        return batch.phrases.tokens if batch.phrases is not None else None


def phrases_of(sample: Sample) -> list[Phrase]:
    """Return the report's sentences that assert a finding present, each with the int64 code of what it asserts.

    The code is the hash of the sorted (code, side, zone) of its present mentions: with one mention, `concept_code`.
    """
    found = []
    for text, mentions in mentions_by_sentence(sample) if sample.concepts else ():
        present = (mention for mention in mentions if mention.assertion == "present")
        said = sorted({concept_text(mention.code, mention.side, mention.zone) for mention in present})
        if said:
            found.append((text, code_of(";".join(said))))
    return found
