"""The three kinds of tokenizer behind `vlp.tokenize.Tokenizer`, and the training of sentencepiece."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .shared_words import SharedWords, folded
from .tokenize import Pieces, Row, Tokenizer, TokenizerError

if TYPE_CHECKING:
    import tokenizers

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
                self.encoder = SimpleTokenizer(file.name)
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
    """A sentencepiece model, framed by its begin and end tokens where it has them."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, length: int, overflow: str) -> None:
        self.model, self.length, self.overflow = model, length, overflow
        self._build()

    def _build(self) -> None:
        from sentencepiece import SentencePieceProcessor

        self.processor = SentencePieceProcessor(model_proto=self.model)
        self.vocab_size = self.processor.get_piece_size()
        self.pad_id = max(self.processor.pad_id(), 0)
        # 0.2.2 renamed the call and refuses the old name
        modern = hasattr(self.processor, "EncodeAsProto")
        self._encode = self.processor.EncodeAsProto if modern else self.processor.EncodeAsImmutableProto  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "length": self.length, "overflow": self.overflow}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

    def _pieces(self, texts: list[str]) -> Pieces:
        opening, closing = (
            [(token, -1, -1, -1)] if token >= 0 else [] for token in (self.processor.bos_id(), self.processor.eos_id())
        )
        room = self.length - len(opening) - len(closing)
        found: list[tuple[list[Row], bool]] = []
        for text in texts:
            pieces: list[Row] = []
            word = -1
            for one in self._encode(text).pieces:
                # a bare word-start marker has no characters, and the piece after it continues that word
                word += 1 if one.piece.startswith("▁") or word < 0 else 0
                start = one.begin + len(one.surface) - len(one.surface.lstrip())
                pieces.append((one.id, word, min(start, one.end), one.end))
            found.append(([*opening, *pieces[:room], *closing], len(pieces) > room))
        return Pieces.of(found)

    def files(self) -> dict[str, bytes]:
        return {"spiece.model": self.model}


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
