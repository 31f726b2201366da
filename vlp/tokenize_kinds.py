"""The three kinds of tokenizer behind `vlp.tokenize.Tokenizer`, and the training of sentencepiece."""

from __future__ import annotations

import io
import json
import string
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError
from .person_words import folded
from .shared_words import SharedWords
from .tokenize import Pieces, Row, Tokenizer, TokenizerError
from .untrusted import open_gzip

if TYPE_CHECKING:
    import tokenizers

MERGES = 1 << 26
"""Bytes that open_clip's merges unpack to at most; its own have 3 million."""
LINE = 800
"""Characters of a line given to sentencepiece."""


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
        counts = [len(one) for one in encoded]
        rows = np.empty((sum(counts), 4), np.int64)

        def column(name: str) -> Iterator[Any]:
            return chain.from_iterable(getattr(one, name) for one in encoded)

        rows[:, 0] = np.fromiter(column("ids"), np.int64, len(rows))
        rows[:, 1] = np.fromiter((-1 if word is None else word for word in column("word_ids")), np.int64, len(rows))
        rows[:, 2:] = np.fromiter(chain.from_iterable(column("offsets")), np.int64, 2 * len(rows)).reshape(-1, 2)
        special = np.fromiter(column("special_tokens_mask"), bool, len(rows))
        rows[special | (rows[:, 1] < 0), 1:] = -1
        return Pieces(counts, rows, frozenset(row for row, one in enumerate(encoded) if one.overflowing))

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": self.backend.to_str(pretty=True).encode(), **self.extra}

    def _essence(self) -> dict[str, bytes]:
        return {"tokenizer.json": self.files()["tokenizer.json"]}


class OpenClipTokenizer(Tokenizer):
    """open_clip's lower-cased byte-pair encoding, with the offsets that it does not give itself."""

    kind = "open_clip"

    def __init__(self, merges: bytes | None, length: int, overflow: str) -> None:
        self.merges, self.length, self.overflow = merges, length, overflow
        self._build()

    def _build(self) -> None:
        import tempfile

        from open_clip.tokenizer import SimpleTokenizer

        if self.merges is None:
            self.encoder = SimpleTokenizer()
        else:
            with tempfile.NamedTemporaryFile(suffix=".gz") as file:
                file.write(self.merges)
                file.flush()
                try:
                    with open_gzip(file.name, MERGES) as unpacked:
                        while unpacked.read(1 << 20):
                            pass
                    self.encoder = SimpleTokenizer(file.name)
                    if {len(pair) for pair in self.encoder.bpe_ranks} - {0} != {2}:
                        raise ValueError("not a pair a line")
                except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
                    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                    raise ConfigError(
                        f"tokenizer: expected open_clip's gzipped merges, found what is not ({said})"
                    ) from None
        self.vocab_size, self.pad_id = self.encoder.vocab_size, 0

    def __getstate__(self) -> dict[str, Any]:
        return {"merges": self.merges, "length": self.length, "overflow": self.overflow}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

    def _pieces(self, texts: list[str]) -> Pieces:
        encoder, found = self.encoder, list[tuple[list[Row], bool]]()
        for text in texts:
            clean = encoder.clean_fn(text)
            place = align(clean, text)
            pieces: list[Row] = [(encoder.sot_token_id, -1, -1, -1)]
            for word, match in enumerate(encoder.pat.finditer(clean)):
                raw = "".join(encoder.byte_encoder[byte] for byte in match.group().encode())
                # byte -> character of the clean text, since pieces are made of bytes
                owner = [match.start() + at for at, letter in enumerate(match.group()) for _ in letter.encode()]
                used = 0
                for piece in encoder.bpe(raw).split(" "):
                    width = len(piece.removesuffix("</w>"))
                    first, last = owner[used], owner[min(used + width, len(owner)) - 1]
                    pieces.append((encoder.encoder[piece], word, place[first][0], place[last][1]))
                    used += width
            cut = len(pieces) >= self.length
            found.append(([*pieces[: self.length - 1], (encoder.eot_token_id, -1, -1, -1)], cut))
        return Pieces.of(found)

    def files(self) -> dict[str, bytes]:
        return {} if self.merges is None else {"merges.txt.gz": self.merges}


def align(clean: str, text: str) -> list[tuple[int, int]]:
    """Return, for each character of `clean`, the characters `[start, end)` of `text` that it was made from.

    Exact where cleaning lower-cased and collapsed white space; repaired or unescaped stretches map to what they replace.
    """
    import difflib

    lowered = [letter.lower()[:1] for letter in text]
    place: list[tuple[int, int]] = []
    at = 0
    for letter in clean:
        if letter.isspace():
            place.append((at, at + 1))
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text) or lowered[at] != letter:
            break
        place.append((at, at + 1))
        at += 1
    else:
        return place
    place = [(0, 0)] * len(clean)
    for _, start, end, low, high in difflib.SequenceMatcher(None, lowered, clean, autojunk=False).get_opcodes():
        for index in range(low, high):
            same = high - low == end - start
            place[index] = (start + index - low, start + index - low + 1) if same else (start, end)
    return place


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model, framed by its begin and end tokens where it has them.

    With `siglip` it makes the tokens of transformers' SiglipTokenizer: letters lower case, punctuation taken out, only the end
    token added, padded with what that names.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, length: int, overflow: str, siglip: Siglip | None = None) -> None:
        self.model, self.length, self.overflow, self.siglip = model, length, overflow, siglip
        self._build()

    def _build(self) -> None:
        from sentencepiece import SentencePieceProcessor

        self.processor = SentencePieceProcessor(model_proto=self.model)
        self.vocab_size = self.processor.get_piece_size()
        self.pad_id = max(self.processor.pad_id(), 0)
        # 0.2.2 renamed the call and refuses the old name
        modern = hasattr(self.processor, "EncodeAsProto")
        self._encode = self.processor.EncodeAsProto if modern else self.processor.EncodeAsImmutableProto  # type: ignore[attr-defined]
        ends = [one.end for one in self._encode("é").pieces]
        self.in_bytes = max(ends, default=0) > 1  # of one character: some versions count bytes
        opening, closing = self._special(self.processor.bos_id()), self._special(self.processor.eos_id())
        self.frame: tuple[list[Row], list[Row]] = (opening, closing)
        if self.siglip is not None:
            self.frame = ([], self._special(self.processor.piece_to_id(self.siglip.eos)))
            self.pad_id = self.processor.piece_to_id(self.siglip.pad)
            self.before = len(self._encode(self.siglip.unknown).pieces)

    @staticmethod
    def _special(token: int) -> list[Row]:
        return [(token, -1, -1, -1)] if token >= 0 else []

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "length": self.length, "overflow": self.overflow, "siglip": self.siglip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

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
            return [(one.id, one.piece, one.begin, one.end) for one in pieces]
        character = [at for at, letter in enumerate(text) for _ in letter.encode()] + [len(text)]
        return [(one.id, one.piece, character[one.begin], character[one.end]) for one in pieces]

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
