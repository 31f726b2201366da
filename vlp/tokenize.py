"""Texts to token ids, with the characters and the word that each token came from.

One `Tokenizer` for all kinds: Hugging Face's fast tokenizers (also word pieces trained on one's own reports), open_clip's
byte-pair encoder, and sentencepiece. Batches are padded to their own longest text. Objects pickle without importing
transformers, so that loader workers start fast.
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
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from .config import ConfigError, config, validate
from .output import write_whole
from .shared_words import SharedWords
from .types import Tokens
from .untrusted import MAX_TOKENIZER, MIB, check_files, is_relative_name, parse_json, read_json, read_regular

if TYPE_CHECKING:
    from .tokenize_kinds import FastTokenizer, SentencePieceTokenizer

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


@config
class TextSpec:
    """Which tokenizer, and what happens to texts beyond `length` tokens (special ones counted).

    `path`: `hf` a folder or cached hub name; `open_clip` a merges file, none for the one that open_clip ships;
    `sentencepiece` a `.model` file. `wordpiece` and `sentencepiece` without a path are trained on the training texts, with
    `vocab_size` pieces of words that at least `shared_by` patients share (fewer where there are few). `overflow`:
    `truncate` keeps the closing special token and counts the text, `error` raises.
    """

    kind: Literal["hf", "open_clip", "sentencepiece", "wordpiece"] = "wordpiece"
    path: str | None = None
    length: int = 256
    overflow: Literal["truncate", "error"] = "truncate"
    vocab_size: int = 1000
    shared_by: int = 5

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(f"length must be at least 3, found {self.length}")
        if self.shared_by < 2:
            raise ValueError(
                f"shared_by must be at least 2, found {self.shared_by}: else a token may be one patient's name"
            )
        if self.kind == "hf" and not self.path:
            raise ValueError(
                "kind hf needs a path: a folder with tokenizer.json, or the name of a cached hub repository"
            )


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


class Tokenizer(ABC):
    """What every kind shares: padding, the map of words, the overflow policy, saving."""

    kind: ClassVar[str]
    length: int
    overflow: str
    vocab_size: int
    pad_id: int
    trained: dict[str, int] | None = None
    """How it was trained here: patients, patients that share each word, words left out; None where it was not."""

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
        record = {
            "kind": self.kind,
            "length": self.length,
            "overflow": self.overflow,
            "fingerprint": self.fingerprint,
            "files": sorted(self.files()),
            "trained": self.trained,
        }
        write_whole(folder / FILE, json.dumps(record, indent=2) + "\n")


@config
class _Saved:
    """What `vlp_tokenizer.json` holds."""

    kind: Literal["hf", "open_clip", "sentencepiece"]
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
    def read(cls, path: Path) -> _Saved:
        """Read the file; raises ConfigError."""
        try:
            tree = read_json(path, MIB)
            known = {key: tree[key] for key in set(tree) & {item.name for item in fields(cls)}}
        except OSError as error:
            raise ConfigError(f"cannot read a tokenizer from {path}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cannot read a tokenizer from {path}: {error}") from None
        return validate(cls, known, str(path))


def build_tokenizer(spec: TextSpec, texts: Iterable[str] | None = None) -> Tokenizer:
    """Return the tokenizer of a recipe; `texts` are read only by the kinds that are trained.

    Raises ConfigError for a path that does not lead to a tokenizer, or for a trained kind without texts.
    """
    from .tokenize_kinds import FastTokenizer, OpenClipTokenizer, SentencePieceTokenizer, train_sentencepiece

    if spec.kind == "hf":
        return _from_transformers(str(spec.path), spec.length, spec.overflow)
    if spec.kind == "open_clip":
        return OpenClipTokenizer(_read(spec.path) if spec.path else None, spec.length, spec.overflow)
    if spec.kind == "wordpiece" and spec.path:
        return _from_transformers(spec.path, spec.length, spec.overflow)
    if spec.kind == "sentencepiece" and spec.path:
        return _from_sentencepiece(Path(spec.path), spec.length, spec.overflow)
    if texts is None:
        raise ConfigError(f"tokenizer.path: a {spec.kind} tokenizer without a path is trained, and there are no texts")
    shared = SharedWords.count(texts, spec.shared_by)
    trained: Tokenizer
    if spec.kind == "wordpiece":
        from . import wordpiece

        backend = wordpiece.train(shared, spec.vocab_size)
        names = {f"{name.strip('[]').lower()}_token": name for name in wordpiece.SPECIAL}
        setup = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.length, **names}
        extra = {"tokenizer_config.json": (json.dumps(setup, indent=2) + "\n").encode()}
        trained = FastTokenizer(backend, extra, wordpiece.SPECIAL.index("[PAD]"), spec.length, spec.overflow)
    else:
        trained = SentencePieceTokenizer(train_sentencepiece(shared, spec.vocab_size), spec.length, spec.overflow)
    trained.trained = {"patients": shared.patients, "min_patients": shared.least, "words_left_out": shared.left_out}
    return trained


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.save` wrote; raises ConfigError naming a missing or changed file."""
    from .tokenize_kinds import OpenClipTokenizer

    folder = Path(folder)
    record = _Saved.read(folder / FILE)
    for name in record.files:
        if not is_relative_name(name) or not (folder / name).is_file():
            raise ConfigError(f"the tokenizer is incomplete: no file {folder / name}")
    loaded: Tokenizer
    if record.kind == "hf":
        loaded = _read_fast(folder, record.length, record.overflow)
    elif record.kind == "open_clip":
        merges = _read(folder / "merges.txt.gz") if record.files else None
        loaded = OpenClipTokenizer(merges, record.length, record.overflow)
    else:
        loaded = _from_sentencepiece(folder, record.length, record.overflow)
    loaded.trained = record.trained
    if loaded.fingerprint != record.fingerprint:
        raise ConfigError(
            f"the files of the tokenizer in {folder} are not the ones that were saved: its fingerprint differs"
        )
    return loaded


def _read(path: Path | str) -> bytes:
    try:
        return read_regular(path, MAX_TOKENIZER)
    except OSError as error:
        raise ConfigError(f"tokenizer.path: cannot read {path}: {error.strerror}") from None


def _from_sentencepiece(path: Path, length: int, overflow: str) -> SentencePieceTokenizer:
    """Read a sentencepiece model, a file or `spiece.model` in a folder, as what the `tokenizer_config.json` beside it says."""
    from .tokenize_kinds import SentencePieceTokenizer, Siglip

    path = path / "spiece.model" if path.is_dir() else path
    model, setup = _read(path), path.with_name("tokenizer_config.json")
    try:
        siglip = Siglip.of(read_json(setup)) if setup.exists() else None
        return SentencePieceTokenizer(model, length, overflow, siglip)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"tokenizer.path: cannot read {path}: {str(error)[:200]}") from None


def _read_fast(folder: Path, length: int, overflow: str) -> FastTokenizer:
    import tokenizers

    from .models.trust import refuse_loaders
    from .tokenize_kinds import FastTokenizer

    try:
        files = {path.name: read_regular(path, MAX_TOKENIZER) for path in sorted(folder.glob("*.json"))}
        backend = tokenizers.Tokenizer.from_buffer(files.pop("tokenizer.json"))
        setup = parse_json(files.get("tokenizer_config.json", b"{}"))
        pad = setup.get("pad_token") or "[PAD]"
        pad_id = backend.token_to_id(pad["content"] if isinstance(pad, dict) else pad)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
    except Exception as error:  # the Rust side raises bare Exceptions
        raise ConfigError(f"cannot read {folder / 'tokenizer.json'}: {str(error)[:200]}") from None
    refuse_loaders(setup, f"{folder / 'tokenizer_config.json'}: tokenizer")
    extra = {name: content for name, content in files.items() if name != FILE}
    return FastTokenizer(backend, extra, pad_id or 0, length, overflow)


def _from_transformers(path: str, length: int, overflow: str) -> Tokenizer:
    import tempfile

    from transformers import AutoTokenizer

    if (Path(path) / FILE).is_file() and (Path(path) / "tokenizer.json").is_file():
        made_here = _read_fast(Path(path), length, overflow)
        made_here.trained = _Saved.read(Path(path) / FILE).trained
        return made_here
    try:
        if Path(path).is_dir():
            check_files(Path(path))
        loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a missing folder, a missing file and a broken one each raise another kind
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"tokenizer.path: no tokenizer in {path!r}: {said}") from None
    if type(loaded).__name__ == "SiglipTokenizer":
        with tempfile.TemporaryDirectory() as folder:
            loaded.save_pretrained(folder)
            return _from_sentencepiece(Path(folder), length, overflow)
    if not hasattr(loaded, "backend_tokenizer"):
        raise ConfigError(
            f"tokenizer.path: {path!r} holds a slow tokenizer ({type(loaded).__name__}); it has no offsets"
        )
    if loaded.pad_token is None:
        raise ConfigError(f"tokenizer.path: the tokenizer in {path!r} has no padding token")
    loaded.model_max_length = length
    with tempfile.TemporaryDirectory() as folder:
        loaded.save_pretrained(folder)
        return _read_fast(Path(folder), length, overflow)
