"""What a tokenizer is: texts to token ids, with the characters and the word that each token came from.

Batches are padded to their own longest text. Objects pickle without importing transformers, so that loader workers start
fast.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np

from vlp.batch import Tokens
from vlp.core.config import ConfigError, config, to_tree, validate
from vlp.core.output import write_whole
from vlp.core.registry import Registry
from vlp.core.untrusted import MAX_TOKENIZER, MIB, read_object, read_regular

from ..spec import TextSpec

FILE = "vlp_tokenizer.json"
MAX_WORD = 1000
MAX_LENGTH = 1 << 20
LEFT_OUT = (
    "trained on the texts of {patients} patients without names, dates and numbers that a pattern finds, runs of digits, and "
    "{words_left_out} words that fewer than {min_patients} patients share or that look like names"
)
"""What is said of a tokenizer that was trained here, from its `trained`."""

Row = tuple[int, int, int, int]


class TokenizerError(ValueError):
    """A text that is too long under `overflow: error`, or a tokenizer that cannot be built or read."""


class Pieces(NamedTuple):
    """The tokens of several texts one after another, special ones included, each text cut to the tokenizer's `length`.

    `counts`: how many tokens each text has; `rows`: (id, word that it is a piece of, first character, end) of each token
    with -1 for what a special token has not; `cut`: the texts that lost some.
    """

    counts: list[int]
    rows: np.ndarray
    cut: frozenset[int]

    @classmethod
    def of(cls, found: Sequence[tuple[list[Row], bool]]) -> Pieces:
        """Put together each text's tokens and whether it was cut."""
        flat = chain.from_iterable(chain.from_iterable(rows for rows, _ in found))
        counts = [len(rows) for rows, _ in found]
        table = np.fromiter(flat, np.int64, 4 * sum(counts)).reshape(-1, 4)
        return cls(counts, table, frozenset(index for index, (_, cut) in enumerate(found) if cut))


@dataclass(slots=True)
class Encoded:
    """Tokenised texts: `tokens`, `offsets` int64 [B, L, 2] (characters, -1 on special tokens), rows that were cut."""

    tokens: Tokens
    offsets: np.ndarray
    cut: frozenset[int] = frozenset()

    @property
    def truncated(self) -> int:
        return len(self.cut)

    def find(self, row: int, start: int, end: int) -> tuple[int, int] | None:
        """Return the tokens `[first, last)` of `row` that cover characters `[start, end)`.

        None when the span is empty or when a part of it fell to truncation: such spans are dropped, never clamped.
        """
        starts, ends = self.offsets[row, :, 0], self.offsets[row, :, 1]
        inside = np.flatnonzero((starts < end) & (ends > start) & (starts >= 0))
        if start >= end or len(inside) == 0:
            return None
        if row in self.cut and end > int(ends.max()):
            return None
        return int(inside[0]), int(inside[-1]) + 1


def without_long_words(text: str) -> str:
    """Return a text up to MAX_WORD characters into its first longer word: no report has one, and some tokenizers take
    the square of a word's length."""
    if len(text) > MAX_WORD and max(map(len, text.split()), default=0) > MAX_WORD:
        for word in re.finditer(r"\S+", text):
            if len(word[0]) > MAX_WORD:
                return text[: word.start() + MAX_WORD]
    return text


@config
class SavedTokenizer:
    """What `vlp_tokenizer.json` holds."""

    kind: str
    length: int
    overflow: Literal["truncate", "error"]
    fingerprint: str
    files: tuple[str, ...]
    trained: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if not 3 <= self.length <= MAX_LENGTH:
            raise ValueError(f"length: expected 3 to {MAX_LENGTH}, found {self.length}")
        if self.trained and set(self.trained) != {"patients", "min_patients", "words_left_out"}:
            raise ValueError("trained: expected the numbers patients, min_patients, words_left_out")

    @classmethod
    def read(cls, path: Path) -> SavedTokenizer:
        """Read the file; raises ConfigError."""
        tree = read_object(path, MIB)
        known = {item.name for item in fields(cls)}
        return validate(cls, {key: value for key, value in tree.items() if key in known}, str(path))


class Tokenizer(ABC):
    """What every kind shares: padding, the map of words, the overflow policy, saving."""

    kind: ClassVar[str]
    """The name that it is saved and found by: the registered one, or `module:Class`."""
    length: int
    overflow: str
    vocab_size: int
    pad_id: int
    trained: dict[str, int] | None = None
    """How it was trained here: patients, patients that share each word, words left out; None where it was not."""

    @classmethod
    @abstractmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> Tokenizer:
        """Return the tokenizer that a recipe asks for, trained on `texts` where `needs_texts`; raises ConfigError."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, length: int, overflow: str) -> Self:
        """Return what `save` wrote; raises ConfigError."""

    @classmethod
    def needs_texts(cls, spec: TextSpec) -> bool:
        """Return whether `build` trains the tokenizer."""
        return False

    @abstractmethod
    def _pieces(self, texts: list[str]) -> Pieces:
        """Return the tokens of the texts."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Return the files that this tokenizer is made of, by name."""

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Tokenise B texts, padded to the longest of them; a text ends within a word of over MAX_WORD characters.

        Raises TokenizerError for a text beyond `length` under `overflow: error`.
        """
        import torch

        bounded = [without_long_words(text) for text in texts]
        counts, rows, cut = self._pieces(bounded)
        cut |= {row for row, text in enumerate(bounded) if len(text) < len(texts[row])}
        width = max(counts, default=0)
        mask = np.arange(width) < np.array(counts, np.int64)[:, None]
        table = np.full((len(counts), width, 4), (self.pad_id, -1, -1, -1), np.int64)
        table[mask] = rows
        if cut and self.overflow == "error":
            raise TokenizerError(
                f"{len(cut)} of {len(counts)} texts have more than {self.length} tokens (tokenizer.overflow is error); "
                f"the first has {len(texts[min(cut)])} characters"
            )
        offsets = table[..., 2:]
        ids, words = (torch.from_numpy(table[..., column].copy()) for column in (0, 1))
        tokens = Tokens(ids=ids, mask=torch.from_numpy(mask), words=words)
        return Encoded(tokens=tokens, offsets=offsets, cut=cut)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that changes the ids of a text."""
        digest = hashlib.sha256(json.dumps([self.kind, self.length]).encode())
        for name, content in sorted(self._essence().items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()[:16]

    def _essence(self) -> dict[str, bytes]:
        return self.files()

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer's own files and `vlp_tokenizer.json` into a folder, made when missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_whole(folder / name, content)
        overflow: Literal["truncate", "error"] = "error" if self.overflow == "error" else "truncate"
        record = SavedTokenizer(
            kind=self.kind,
            length=self.length,
            overflow=overflow,
            fingerprint=self.fingerprint,
            files=tuple(sorted(self.files())),
            trained=self.trained,
        )
        write_whole(folder / FILE, json.dumps(to_tree(record), indent=2) + "\n")


tokenizer_kinds = Registry[type[Tokenizer]]("tokenizer", package="vlp.modalities.text.tokenizers")


def read_file(path: Path | str) -> bytes:
    """Return a file that a recipe or a saved tokenizer is made of; raises ConfigError."""
    try:
        return read_regular(path, MAX_TOKENIZER)
    except OSError as error:
        raise ConfigError(f"tokenizer.path: cannot read {path}: {error.strerror}") from None
