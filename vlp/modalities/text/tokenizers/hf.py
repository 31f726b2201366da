"""Hugging Face's fast tokenizers, and word pieces trained on one's own reports."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Pieces, Tokenizer

if TYPE_CHECKING:
    import tokenizers


class FastTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library: BERT's word pieces, RoBERTa's and CLIP's byte pairs, T5's and SigLIP's.

    `extra` holds the small configuration files that stand beside `tokenizer.json`, so that `AutoTokenizer` loads the
    saved folder too.
    """

    kind = "hf"

    def __init__(
        self, backend: tokenizers.Tokenizer, extra: dict[str, bytes], pad_id: int, length: int, overflow: str
    ) -> None:
        backend.no_padding()
        backend.enable_truncation(length)
        self.backend, self.extra = backend, extra
        self.pad_id, self.length, self.overflow = pad_id, length, overflow
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)

    def _pieces(self, texts: list[str]) -> Pieces:
        encoded = self.backend.encode_batch(texts)
        counts = [len(encoding) for encoding in encoded]
        rows = np.empty((sum(counts), 4), np.int64)

        def column(name: str) -> Iterator[Any]:
            return chain.from_iterable(getattr(encoding, name) for encoding in encoded)

        rows[:, 0] = np.fromiter(column("ids"), np.int64, len(rows))
        rows[:, 1] = np.fromiter((-1 if word is None else word for word in column("word_ids")), np.int64, len(rows))
        rows[:, 2:] = np.fromiter(chain.from_iterable(column("offsets")), np.int64, 2 * len(rows)).reshape(-1, 2)
        special = np.fromiter(column("special_tokens_mask"), bool, len(rows))
        rows[special | (rows[:, 1] < 0), 1:] = -1
        return Pieces(counts, rows, frozenset(row for row, encoding in enumerate(encoded) if encoding.overflowing))

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": self.backend.to_str(pretty=True).encode(), **self.extra}

    def _essence(self) -> dict[str, bytes]:
        return {"tokenizer.json": self.files()["tokenizer.json"]}
