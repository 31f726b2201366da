"""CLIP's byte-pair tokenizer."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from vlp.core.errors import ConfigError
from vlp.core.untrusted import open_gzip

from ..spec import TextSpec
from .base import Pieces, Row, Tokenizer, read_file, tokenizer_kinds

FILE = "merges.txt.gz"
MERGES = 1 << 26
"""Bytes that open_clip's merges unpack to at most; its own have 3 million."""


@tokenizer_kinds.register("open_clip")
class OpenClipTokenizer(Tokenizer):
    """open_clip's lower-cased byte-pair encoding, with the offsets that it does not give itself."""

    kind = "open_clip"

    def __init__(self, merges: bytes | None, length: int, overflow: str) -> None:
        import tempfile

        from open_clip.tokenizer import SimpleTokenizer

        self.merges, self.length, self.overflow = merges, length, overflow
        if merges is None:
            self.encoder = SimpleTokenizer()
        else:
            with tempfile.NamedTemporaryFile(suffix=".gz") as file:
                file.write(merges)
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

    @classmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> Self:
        return cls(read_file(spec.path) if spec.path else None, spec.length, spec.overflow)

    @classmethod
    def read(cls, folder: Path, length: int, overflow: str) -> Self:
        return cls(read_file(folder / FILE) if (folder / FILE).is_file() else None, length, overflow)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.merges, self.length, self.overflow)

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
        return {} if self.merges is None else {FILE: self.merges}


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
