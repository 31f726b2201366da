"""Tokenizers built as a recipe says, trained on its texts where it asks for that, and loaded from a model's folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from vlp.core.config import ConfigError, find
from vlp.core.trust import check_module
from vlp.core.untrusted import is_relative_name

from ..spec import TextSpec
from .base import FILE, SavedTokenizer, Tokenizer, tokenizer_kinds


def build_tokenizer(spec: TextSpec, texts: Iterable[str] | None = None) -> Tokenizer:
    """Return the tokenizer of a recipe; `texts` are read only by the kinds that are trained.

    Raises ConfigError for a path that does not lead to a tokenizer, or for a trained kind without texts.
    """
    return find(tokenizer_kinds, spec.kind, "tokenizer.kind").build(spec, texts)


def needs_texts(spec: TextSpec) -> bool:
    """Return whether the tokenizer of a recipe is trained."""
    return find(tokenizer_kinds, spec.kind, "tokenizer.kind").needs_texts(spec)


def load_tokenizer(folder: Path | str, trust: Collection[str] = ()) -> Tokenizer:
    """Return the tokenizer that `Tokenizer.save` wrote; raises ConfigError naming a missing or changed file.

    A kind of another repository (`module:Class`) is imported where `trust` names its module.
    """
    folder = Path(folder)
    record = SavedTokenizer.read(folder / FILE)
    for name in record.files:
        if not is_relative_name(name) or not (folder / name).is_file():
            raise ConfigError(f"the tokenizer is incomplete: no file {folder / name}")
    if ":" in record.kind:
        check_module(record.kind, trust, f"{folder / FILE}: kind")
    loaded = find(tokenizer_kinds, record.kind, f"{folder / FILE}: kind").read(folder, record.length, record.overflow)
    loaded.trained = record.trained
    if loaded.fingerprint != record.fingerprint:
        raise ConfigError(
            f"the files of the tokenizer in {folder} are not the ones that were saved: its fingerprint differs"
        )
    return loaded
