"""Plain text from what systems export: tags, entities, escapes, RTF, words without an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp_prep.reports.markup import LONGEST_WORD, plain_text


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<html><head><title>x</title><style>p{}</style></head><body>A<br/>B</body></html>", "A\nB"),
        ("A <b>small</b> nodule &lt; 5&nbsp;mm", "A small nodule < 5 mm"),
        ("size <5 mm and >3 mm", "size <5 mm and >3 mm"),
        ("Seen by <NAME> on <DATE>", "Seen by <NAME> on <DATE>"),
        ("A&amp;lt;br&amp;gt;B", "A\nB"),
        ("<!-- note -->A", "A"),
        (r"A\nB\r\nC", "A\nB\nC"),
        (r"in C:\new\folder", r"in C:\new\folder"),
        ("A_x000D_\nB", "A\n\nB"),
        (r"A\.br\B", "A\nB"),
        ("A\x00B\u200bC\u00adD", "ABCD"),
        ("neumoto\u0301rax", "neumotórax"),
        (r"{\rtf1\ansi\ansicpg1252 Gr\'f6\'dfe {\b fett}\par Zeile\tab 2 \u8211? Ende}", "Größe fett\nZeile\t2 – Ende"),
        (r"{\rtf1{\fonttbl{\f0 Arial;}}{\*\generator Word;}{\info{\author Name}}Text\par}", "Text"),
        (r"{\rtf1 a\{b\}c\\d", r"a{b}c\d"),
    ],
)
def test_markup_is_cleaned_and_words_stay(raw: str, plain: str) -> None:
    assert plain_text(raw) == (plain, 0)


def test_a_word_without_an_end_is_cut_and_counted() -> None:
    text, cut = plain_text("x" * 10_000_000 + " effusion")
    assert text == "x" * LONGEST_WORD + " effusion" and cut == 1


@given(st.text(alphabet="ab<>&;\\{}rtfpn'lg/!-\n\t \u2028", max_size=200))
def test_any_text_is_read(text: str) -> None:
    plain, _ = plain_text(text)
    assert plain == plain.strip() and "\r" not in plain
    assert plain_text("{\\rtf1 " + text)[1] >= 0
