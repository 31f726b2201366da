"""The concept mentions of the texts that are shown, as spans of tokens."""

from __future__ import annotations

import numpy as np
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
            starts, ends = rows.encoded.offsets[owner, :, 0], rows.encoded.offsets[owner, :, 1]
            reach = int(ends.max(initial=-1))
            for mention in sample.concepts:
                place = shown.to_shown_span(mention.start, mention.end)
                if place is None:
                    continue
                touched = np.flatnonzero((starts < place[1]) & (ends > place[0]) & (ends > starts))
                if not len(touched) or (owner in rows.encoded.cut and reach < place[1]):
                    dropped += 1
                    continue
                code = concept_code(mention.code, mention.side, mention.zone)
                found.append((int(touched[0]), int(touched[-1]) + 1, owner, code, ASSERTIONS[mention.assertion]))
        table = torch.tensor(found, dtype=torch.int64).reshape(-1, 5)
        start, end, owners, codes, assertion = (table[:, column].clone() for column in range(5))
        return Spans(start=start, end=end, owner=owners, code=codes, assertion=assertion, dropped=dropped)
