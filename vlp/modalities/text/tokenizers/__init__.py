"""Tokenizers: one file each, entered into `base.tokenizer_kinds` on import. Add yours to the imports below."""

# ruff: noqa: F401
from . import hf, open_clip, sentencepiece, wordpiece
