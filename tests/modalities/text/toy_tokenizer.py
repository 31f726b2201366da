"""A tokenizer of one's own in one file: a token for each letter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Pieces, Row, Tokenizer


class LetterTokenizer(Tokenizer):
    """The letters that the texts have, 0 for padding and 1 for any other."""

    kind = "tests.modalities.text.toy_tokenizer:LetterTokenizer"

    def __init__(self, letters: str, length: int, overflow: str) -> None:
        self.letters, self.length, self.overflow = letters, length, overflow
        self.vocab_size, self.pad_id = len(letters) + 2, 0

    @classmethod
    def needs_texts(cls, spec: TextSpec) -> bool:
        return True

    @classmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> Self:
        return cls("".join(sorted(set("".join(texts or ())))), spec.length, spec.overflow)

    @classmethod
    def read(cls, folder: Path, length: int, overflow: str) -> Self:
        return cls(json.loads((folder / "letters.json").read_text()), length, overflow)

    def files(self) -> dict[str, bytes]:
        return {"letters.json": json.dumps(self.letters).encode()}

    def _pieces(self, texts: list[str]) -> Pieces:
        found: list[tuple[list[Row], bool]] = []
        for text in texts:
            rows = [(self.letters.find(letter) + 2, text[:at].count(" "), at, at + 1) for at, letter in enumerate(text)]
            found.append((rows[: self.length], len(rows) > self.length))
        return Pieces.of(found)
