"""Tokenizers built as a recipe says, trained on its texts where it asks for that, and loaded from a model's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlp.core.config import ConfigError, config, validate
from vlp.core.errors import first_line
from vlp.core.untrusted import MAX_TOKENIZER, MIB, check_files, is_relative_name, parse_json, read_json, read_regular

from ..shared_words import SharedWords
from ..spec import TextSpec
from .base import FILE, Tokenizer

if TYPE_CHECKING:
    from .hf import FastTokenizer
    from .sentencepiece import SentencePieceTokenizer

MAX_LENGTH = 1 << 20


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
    from .hf import FastTokenizer
    from .open_clip import OpenClipTokenizer
    from .sentencepiece import SentencePieceTokenizer, train_sentencepiece

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
    from .open_clip import OpenClipTokenizer

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
    from .sentencepiece import SentencePieceTokenizer, Siglip

    path = path / "spiece.model" if path.is_dir() else path
    model, setup = _read(path), path.with_name("tokenizer_config.json")
    try:
        siglip = Siglip.of(read_json(setup)) if setup.exists() else None
        return SentencePieceTokenizer(model, length, overflow, siglip)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"tokenizer.path: cannot read {path}: {str(error)[:200]}") from None


def _read_fast(folder: Path, length: int, overflow: str) -> FastTokenizer:
    import tokenizers

    from vlp.core.trust import refuse_loaders

    from .hf import FastTokenizer

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
        raise ConfigError(f"tokenizer.path: no tokenizer in {path!r}: {first_line(error)}") from None
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
