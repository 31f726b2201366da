"""Sections, sentences and cleaning, on reports written the ways hospitals write them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.sample import Report
from vlp_prep.reports.sections import clean_sentence, parse_report
from vlp_prep.reports.statements import split_sentences
from vlp_prep.synthetic.patient import draw_state, stream
from vlp_prep.synthetic.report import write

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old man with cough  // r/o pneumonia

 COMPARISON:  Chest radiograph from ___.

 FINDINGS:

 The lungs are clear.  There is no
 effusion.

 IMPRESSION:

 1.  No acute process.
 2.  Stable 2.5 mm nodule, as described by Dr. ___ in [**2101-5-3**].

 NOTIFICATION: Findings were discussed with Dr. ___ by telephone at 3:45 p.m. today.
"""


def parsed(text: str, clean: bool = False) -> Report:
    report = parse_report(text, clean)
    assert report is not None
    return report


def said(report: Report) -> list[str]:
    return [report.text[start:end] for start, end in report.sentences]


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Lungs clear.\nIMPRESSION: Normal chest.",
        "Findings:\nLungs clear.\n\nImpression:\nNormal chest.",
        "FINDINGS\nLungs clear.\nIMPRESSION\nNormal chest.",
        "Findings - Lungs clear.\nImpression - Normal chest.",
        "**Findings:** Lungs clear.\n**Impression:** Normal chest.",
        "## Findings\nLungs clear.\n## Conclusion\nNormal chest.",
        "FINDINGS: Lungs clear. IMPRESSION: Normal chest.",
        "CLINICAL HISTORY: Cough.\r\nREPORT: Lungs clear.\r\nOPINION: Normal chest.",
        "Technique: PA.\nfindings: Lungs clear.\nFINAL IMPRESSION: 1. Normal chest.",
    ],
)
def test_the_ways_of_writing_a_heading(text: str) -> None:
    report = parsed(text, clean=True)
    assert report.findings == "Lungs clear." and report.impression == "Normal chest."
    assert parsed(text).findings == "Lungs clear."


def test_a_report_as_mimic_writes_it() -> None:
    report = parsed(MIMIC)
    assert report.section("indication").startswith("___ year old man")
    assert report.section("comparison") == "Chest radiograph from ___."
    assert said(report)[3:7] == [
        "The lungs are clear.",
        "There is no\n effusion.",
        "No acute process.",
        "Stable 2.5 mm nodule, as described by Dr. ___ in [**2101-5-3**].",
    ]
    clean = parsed(MIMIC, clean=True)
    assert clean.findings == "The lungs are clear. There is no effusion."
    assert clean.impression.startswith("No acute process. Stable 2.5 mm nodule")
    assert "discussed" not in clean.text and "FINAL" not in clean.text
    assert not re.search(r"_{2,}|\[\*\*|\d\.\s+[A-Z]", clean.text)


def test_findings_without_a_heading_are_found_below_the_last_preliminary_one() -> None:
    report = parsed("HISTORY: Chest pain.\n\nPA and lateral views. The heart is normal.\n\nIMPRESSION: Normal.")
    assert report.findings == "PA and lateral views. The heart is normal."
    assert report.section("indication") == "Chest pain."
    assert parsed("The heart is normal. Lungs are clear.").sections == {}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Seen by Dr. Smith. No effusion.", ["Seen by Dr. Smith.", "No effusion."]),
        ("A 2.5 cm nodule, 1.1 cm before. Stable.", ["A 2.5 cm nodule, 1.1 cm before.", "Stable."]),
        ("1. Edema. 2. No effusion.", ["Edema.", "No effusion."]),
        ("1) edema 2) no effusion", ["edema", "no effusion"]),
        ("- Edema\n- No effusion", ["Edema", "No effusion"]),
        ("* Edema.\n\n* Nodule.", ["Edema.", "Nodule."]),
        ("no effusion. heart is normal.", ["no effusion.", "heart is normal."]),
        ("Compared with J. A. Smith's film, i.e. the old one. Same.", None),
        ("Is there edema? No. Fluid.", ["Is there edema?", "No.", "Fluid."]),
        ("Film no. 3 of ___. XXXX is seen [**Name. X**] here. End.", None),
        ("A line that is\nwrapped. Another.", ["A line that is\nwrapped.", "Another."]),
        ("Clear lungs", ["Clear lungs"]),
        ("1. 2. 3.", []),
    ],
)
def test_sentences(text: str, sentences: list[str] | None) -> None:
    found = [text[start:end] for start, end in split_sentences(text)]
    if sentences is not None:
        assert found == sentences
    else:
        assert len(found) == (2 if "Same" in text else 3), found


@pytest.mark.parametrize(
    "text", ["", "   \n\t", "___", "[**2101**]", "1. 2.", "\ufeff", "...", "FINDINGS:\nIMPRESSION:"]
)
def test_nothing_to_read_is_none_and_never_an_empty_text(text: str) -> None:
    for clean in (False, True):
        report = parse_report(text, clean)
        assert report is None or re.search(r"\w", report.text)
    assert parse_report(text, clean=True) is None


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Comparison is made with ___.", "Comparison is made with."),
        ("XXXX XXXX are clear.", "are clear."),
        ("Seen on [**2101-5-3**] too.", "Seen on too."),
        ("Electronically signed by someone", ""),
        ("I, the attending physician, have reviewed the images.", ""),
        ("These findings were telephoned to Dr. X at noon.", ""),
        ("Page 1 of 2", ""),
        ("The lungs\n  are clear.", "The lungs are clear."),
        ("Xxxx marks the spot.", "Xxxx marks the spot."),
    ],
)
def test_cleaning_a_sentence(dirty: str, clean: str) -> None:
    assert clean_sentence(dirty) == clean


def test_the_generator_and_the_parser_agree_on_every_offset() -> None:
    for index in range(300):
        report, _ = write(draw_state(index, 21), stream(21, 4, index))
        assert parse_report(report.text) == report


@given(st.text(alphabet="ab .,:\n1-_[]*?FINDGSMPREO\t", max_size=120))
def test_spans_are_in_order_inside_the_text_and_hold_no_white_space_at_their_ends(text: str) -> None:
    for clean in (False, True):
        report = parse_report(text, clean)
        if report is None:
            continue
        last = 0
        for start, end in report.sentences:
            assert last <= start < end <= len(report.text)
            assert report.text[start:end] == report.text[start:end].strip()
            last = end
        for start, end in report.sections.values():
            assert 0 <= start <= end <= len(report.text)
