"""The processor of reports: a tokenizer behind the interface that all modalities share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from ..base import Processor, processors
from .tokenizers.base import Tokenizer
from .tokenizers.load import load_tokenizer

if TYPE_CHECKING:
    from vlp.batch import Tokens

FOLDER = "tokenizer"


class TextShape(NamedTuple):
    """What a text tower must know of the tokenizer: table size, padding id, longest text, the token that closes a text."""

    vocab_size: int
    pad_id: int
    length: int
    closing_id: int | None = None


@processors.register("text")
class TextProcessor(Processor[str, "Tokens"]):
    """Texts to `Tokens`; texts have no geometry."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokens = tokenizer([""]).tokens
        closes = bool(tokens.ids.shape[1]) and int(tokens.words[0, -1]) < 0
        closing = int(tokens.ids[0, -1]) if closes else None
        self.spec = TextShape(tokenizer.vocab_size, tokenizer.pad_id, tokenizer.length, closing)

    @property
    def fingerprint(self) -> str:
        return self.tokenizer.fingerprint

    def read(self, data: bytes) -> str:
        return data.decode()

    def eval(self, native: str) -> tuple[str, None]:
        return native, None

    def collate(self, inputs: Sequence[str]) -> Tokens:
        return self.tokenizer(inputs).tokens

    def example(self) -> Tokens:
        return self.batch(["a"])

    def save(self, folder: Path | str) -> None:
        self.tokenizer.save(Path(folder) / FOLDER)

    @classmethod
    def load(cls, folder: Path | str, trust: Collection[str] = ()) -> Self:
        return cls(load_tokenizer(Path(folder) / FOLDER, trust))
