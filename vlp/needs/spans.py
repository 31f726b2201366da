"""The concept mentions of the texts that are shown, as spans of tokens."""

from __future__ import annotations

import torch

from vlp.batch import Spans
from vlp.sample import ASSERTIONS, Sample, concept_code

from .base import BUILD, Need, Rows, needs


@needs.register("spans")
class MentionSpans(Need):
    """`Batch.spans`."""

    hint = BUILD
    in_batch = True

    def holds(self) -> str:
        return f"any `concepts`: {BUILD}"

    def is_in(self, sample: Sample) -> bool:
        return bool(sample.concepts)

    def collate(self, rows: Rows) -> Spans:
        """Return the mentions that are shown, as tokens; those that the tokenizer truncated, wholly or partly, are counted."""
        found: list[tuple[int, int, int, int, int]] = []
        dropped = 0
        for owner, (sample, shown) in enumerate(zip(rows.samples, rows.shown, strict=True)):
            for mention in sample.concepts:
                place = shown.to_shown_span(mention.start, mention.end)
                if place is None:
                    continue
                tokens = rows.encoded.find(owner, *place)
                if tokens is None:
                    dropped += 1
                    continue
                code = concept_code(mention.code, mention.side, mention.zone)
                found.append((*tokens, owner, code, ASSERTIONS[mention.assertion]))
        table = torch.tensor(found, dtype=torch.int64).reshape(-1, 5)
        start, end, owners, codes, assertion = (table[:, column].clone() for column in range(5))
        return Spans(start=start, end=end, owner=owners, code=codes, assertion=assertion, dropped=dropped)
