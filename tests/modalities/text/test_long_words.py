"""A text that is one endless word is cut and counted, in time that grows with its length only."""

from __future__ import annotations

import time

import pytest

from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import MAX_WORD, Tokenizer, TokenizerError, without_long_words
from vlp.modalities.text.tokenizers.load import build_tokenizer

TEXTS = [f"There is a small nodule number {number}." for number in range(40)]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "open_clip"])
def test_a_word_of_ten_megabytes_is_cut_and_counted(kind: str) -> None:
    tokenizer = build(kind, [*TEXTS, "x" * 10_000_000])
    start = time.process_time()
    encoded = tokenizer(["No effusion.", "A nodule. " + "ab" * 5_000_000, "x" * MAX_WORD])
    assert time.process_time() - start < 10
    assert 1 in encoded.cut and 0 not in encoded.cut
    place = encoded.find(1, 2, 8)
    assert place is not None and encoded.tokens.mask[1, place[0]]


def test_a_long_text_of_ordinary_words_is_left_alone() -> None:
    text = "word " * 100_000
    assert without_long_words(text) is text
    assert without_long_words("a\n" + "b" * 5000 + " c") == "a\n" + "b" * MAX_WORD


def test_where_truncation_is_an_error_this_is_one() -> None:
    with pytest.raises(TokenizerError, match="1 of 1 texts"):
        build("wordpiece", TEXTS, overflow="error")(["x" * 5000])


def build(kind: str, texts: list[str], overflow: str = "truncate") -> Tokenizer:
    return build_tokenizer(TextSpec(kind=kind, length=64, vocab_size=120, overflow=overflow), texts)  # type: ignore[arg-type]
