"""Hugging Face's fast tokenizers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vlp.core.errors import ConfigError, first_line
from vlp.core.trust import refuse_loaders
from vlp.core.untrusted import MAX_TOKENIZER, check_files, parse_json, read_regular

from ..spec import TextSpec
from .base import FILE, Pieces, SavedTokenizer, Tokenizer, tokenizer_kinds
from .sentencepiece import SentencePieceTokenizer

if TYPE_CHECKING:
    import tokenizers


@tokenizer_kinds.register("hf")
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

    @classmethod
    def build(cls, spec: TextSpec, texts: Iterable[str] | None) -> Tokenizer:
        from transformers import AutoTokenizer

        path, length, overflow = str(spec.path), spec.length, spec.overflow
        if (Path(path) / FILE).is_file() and (Path(path) / "tokenizer.json").is_file():
            made_here = cls.read(Path(path), length, overflow)
            made_here.trained = SavedTokenizer.read(Path(path) / FILE).trained
            return made_here
        try:
            if Path(path).is_dir():
                check_files(Path(path))
            loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except Exception as error:  # a missing folder, a missing file and a broken one each raise another kind
            raise ConfigError(f"tokenizer.path: no tokenizer in {path!r}: {first_line(error)}") from None
        is_siglip = type(loaded).__name__ == "SiglipTokenizer"
        if not is_siglip and not hasattr(loaded, "backend_tokenizer"):
            raise ConfigError(
                f"tokenizer.path: {path!r} holds a slow tokenizer ({type(loaded).__name__}); it has no offsets"
            )
        if not is_siglip and loaded.pad_token is None:
            raise ConfigError(f"tokenizer.path: the tokenizer in {path!r} has no padding token")
        if not is_siglip:
            loaded.model_max_length = length
        with tempfile.TemporaryDirectory() as folder:
            loaded.save_pretrained(folder)
            return (SentencePieceTokenizer if is_siglip else cls).read(Path(folder), length, overflow)

    @classmethod
    def read(cls, folder: Path, length: int, overflow: str) -> Self:
        import tokenizers

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
        return cls(backend, extra, pad_id or 0, length, overflow)

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
