"""Sentencepiece tokenizers, trained here or read from a folder."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vlp.core.errors import ConfigError
from vlp.core.untrusted import read_json

from ..person_words import folded
from ..shared_words import SharedWords
from ..spec import TextSpec
from .base import Pieces, Row, Tokenizer, TokenizerError, read_file, tokenizer_kinds

LINE = 800
"""Characters of a line given to sentencepiece."""


@tokenizer_kinds.register("sentencepiece")
class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model, framed by its begin and end tokens where it has them.

    With `siglip` it makes the tokens of transformers' SiglipTokenizer: letters lower case, punctuation taken out, only the end
    token added, padded with what that names.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, length: int, overflow: str, siglip: Siglip | None = None) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model, self.length, self.overflow, self.siglip = model, length, overflow, siglip
        self.processor = SentencePieceProcessor(model_proto=self.model)
        self.vocab_size = self.processor.get_piece_size()
        self.pad_id = max(self.processor.pad_id(), 0)
        # 0.2.2 renamed the call and refuses the old name
        modern = hasattr(self.processor, "EncodeAsProto")
        self._encode = self.processor.EncodeAsProto if modern else self.processor.EncodeAsImmutableProto  # type: ignore[attr-defined]
        ends = [piece.end for piece in self._encode("é").pieces]
        self.in_bytes = max(ends, default=0) > 1  # of one character: some versions count bytes
        opening, closing = self._special(self.processor.bos_id()), self._special(self.processor.eos_id())
        self.frame: tuple[list[Row], list[Row]] = (opening, closing)
        if self.siglip is not None:
            self.frame = ([], self._special(self.processor.piece_to_id(self.siglip.eos)))
            self.pad_id = self.processor.piece_to_id(self.siglip.pad)
            self.before = len(self._encode(self.siglip.unknown).pieces)

    @classmethod
    def needs_texts(cls, spec: TextSpec) -> bool:
        return spec.path is None

    @classmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> Self:
        if spec.path:
            return cls.read(Path(spec.path), spec.length, spec.overflow)
        shared = SharedWords.of_recipe(spec, texts)
        trained = cls(train_sentencepiece(shared, spec.vocab_size), spec.length, spec.overflow)
        trained.trained = shared.summary()
        return trained

    @classmethod
    def read(cls, folder: Path, length: int, overflow: str) -> Self:
        """Read a sentencepiece model, a file or `spiece.model` in a folder, as the `tokenizer_config.json` beside it says."""
        path = folder / "spiece.model" if folder.is_dir() else folder
        model, setup = read_file(path), path.with_name("tokenizer_config.json")
        try:
            siglip = Siglip.of(read_json(setup)) if setup.exists() else None
            return cls(model, length, overflow, siglip)
        except (OSError, ValueError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"tokenizer.path: cannot read {path}: {str(error)[:200]}") from None

    @staticmethod
    def _special(token: int) -> list[Row]:
        return [(token, -1, -1, -1)] if token >= 0 else []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.length, self.overflow, self.siglip)

    def _pieces(self, texts: list[str]) -> Pieces:
        opening, closing = self.frame
        room = self.length - len(opening) - len(closing)
        found: list[tuple[list[Row], bool]] = []
        for text in texts:
            pieces: list[Row] = []
            word = -1
            for token, piece, start, end in self._split(text):
                # a bare word-start marker has no characters, and the piece after it continues that word
                word += 1 if piece.startswith("▁") or word < 0 else 0
                pieces.append((token, word, start, end))
            found.append(([*opening, *pieces[:room], *closing], len(pieces) > room))
        return Pieces.of(found)

    def _split(self, text: str) -> Iterator[tuple[int, str, int, int]]:
        """Yield each piece of a text: its id, its letters, and the characters `[start, end)` of the text that it covers."""
        if self.siglip is None:
            for token, piece, first, last in self._encoded(text):
                covered = [at for at in range(first, last) if not text[at].isspace()]
                yield token, piece, (covered[0] if covered else last), last
            return
        clean, place = self.siglip.canonical(text)
        # as in transformers, behind the unknown token, whose pieces are then taken off: alone a first "▁" would be lost
        pieces, shift = self._encoded(self.siglip.unknown + clean), len(self.siglip.unknown)
        for token, piece, first, last in pieces[self.before :] if len(pieces) >= self.before else pieces:
            covered = [place[at - shift] for at in range(max(first, shift), max(last, shift))]
            covered = [at for at in covered if at >= 0 and not text[at].isspace()]
            yield token, piece, (covered[0] if covered else 0), (covered[-1] + 1 if covered else 0)

    def _encoded(self, text: str) -> list[tuple[int, str, int, int]]:
        """Return sentencepiece's pieces of a text: id, letters, and first and last character."""
        pieces = self._encode(text).pieces
        if not self.in_bytes or text.isascii():
            return [(piece.id, piece.piece, piece.begin, piece.end) for piece in pieces]
        character = [at for at, letter in enumerate(text) for _ in letter.encode()] + [len(text)]
        return [(piece.id, piece.piece, character[piece.begin], character[piece.end]) for piece in pieces]

    def files(self) -> dict[str, bytes]:
        if self.siglip is None:
            return {"spiece.model": self.model}
        return {"spiece.model": self.model, "tokenizer_config.json": self.siglip.to_json(self.length)}


@dataclass(frozen=True)
class Siglip:
    """What transformers' SiglipTokenizer does around its sentencepiece model."""

    is_lowered: bool = True
    eos: str = "</s>"
    pad: str = "</s>"
    unknown: str = "<unk>"

    @classmethod
    def of(cls, setup: Mapping[str, Any]) -> Siglip | None:
        """Read a `tokenizer_config.json`; None where it is another tokenizer's."""
        if not str(setup.get("tokenizer_class", "")).startswith("SiglipTokenizer"):
            return None

        def token(name: str, default: str) -> str:
            given = setup.get(name, default)
            return str(given["content"] if isinstance(given, Mapping) and "content" in given else given)

        is_lowered = setup.get("do_lower_case", True) is not False
        return cls(is_lowered, token("eos_token", "</s>"), token("pad_token", "</s>"), token("unk_token", "<unk>"))

    def to_json(self, length: int) -> bytes:
        """Return the `tokenizer_config.json` from which `of` and transformers make the same tokenizer."""
        named = {"eos_token": self.eos, "pad_token": self.pad, "unk_token": self.unknown}
        setup = {
            "tokenizer_class": "SiglipTokenizer",
            "do_lower_case": self.is_lowered,
            "model_max_length": length,
            **named,
        }
        return (json.dumps(setup, indent=2) + "\n").encode()

    def canonical(self, text: str) -> tuple[str, list[int]]:
        """Return the canonical text behind its word-start marker, and the character that each of its own came from, -1 none."""
        text = text.replace("▁", " ")
        letters = [(letter, at) for at, one in enumerate(text) for letter in (one.lower() if self.is_lowered else one)]
        whole = text.lower()
        if self.is_lowered and len(whole) == len(
            letters
        ):  # a capital sigma at the end of a word becomes another letter
            letters = [(letter, at) for letter, (_, at) in zip(whole, letters, strict=True)]
        kept = [("▁", -1)]
        for letter, at in letters:
            if letter in string.punctuation or (letter.isspace() and kept[-1][0] == " "):
                continue
            kept.append((" " if letter.isspace() else letter, at))
        while kept[-1][0] == " ":
            kept.pop()
        return "".join(letter for letter, _ in kept), [at for _, at in kept]


def train_sentencepiece(shared: SharedWords, vocab_size: int) -> bytes:
    """Return a sentencepiece byte-pair model learned from the words that are shared, lower-cased.

    Equal words give equal bytes; digits are tokens of their own. Raises TokenizerError.
    """
    from sentencepiece import SentencePieceTrainer

    letters = {letter for word in shared.unlearnt for letter in folded(word)}
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(shared, letters),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf",
            split_digits=True,
            required_chars="".join(sorted(letters)),
            num_threads=1,  # more would make the result depend on their race
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise TokenizerError(f"cannot train a sentencepiece model of {vocab_size} pieces: {error}") from None
    return model.getvalue()


def _lines(shared: SharedWords, letters: set[str]) -> Iterator[str]:
    """Yield the shared words as often as they were counted, in lines that sentencepiece does not cut."""
    for word, count in sorted(shared.counts.items()):
        width = max(1, LINE // (len(word) + 1))
        for start in range(0, count, width):
            yield " ".join([word] * min(width, count - start))
    if not shared.counts:
        yield from sorted(letters)
