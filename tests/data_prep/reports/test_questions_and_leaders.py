"""A question mark before a finding, dots that lead to an answer, and short answers: none of them turns into a finding."""

import pytest

from vlp_prep.reports.concepts import Extractor
from vlp_prep.reports.sections import parse_report

CASES = {
    "Pneumothorax ......... none\nEffusion ............. small": "pneumothorax absent, effusion present",
    "Pneumothorax...none. Effusion...yes": "pneumothorax absent, effusion present",
    "Derrame pleural ....... no\nNeumotórax ...... sí": "effusion absent, pneumothorax present",
    "Pneumothorax ..... nein": "pneumothorax absent",
    "The effusion is large... Pneumothorax on the right.": "effusion present, pneumothorax present",
    "Pneumothorax neg. Effusion pos.": "pneumothorax absent, effusion present",
    "Pneumothorax negativ. Erguss rechts.": "pneumothorax absent, effusion present",
    "r/o pneumothorax. ? effusion. Nodule on the left.": "pneumothorax uncertain, effusion uncertain, nodule present",
    "?effusion. ??pneumothorax": "effusion uncertain, pneumothorax uncertain",
    "Heart enlarged, ? effusion.": "cardiomegaly present, effusion uncertain",
    "? neumonía. Derrame pleural.": "pneumonia uncertain, effusion present",
    "? Erguss rechts. Kein Pneumothorax.": "effusion uncertain, pneumothorax absent",
    "Effusion ? no. Nodule ? yes": "effusion absent, nodule present",
    "Pneumothorax ?\nEffusion on the left.": "pneumothorax uncertain, effusion present",
}


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("text", CASES)
def test_what_is_said(text: str, clean: bool) -> None:
    report = parse_report(text, clean)
    assert report is not None
    said = ", ".join(f"{mention.code} {mention.assertion}" for mention in Extractor().of_report(report))
    assert said == CASES[text]


def test_cut_words_of_padchest_are_read_as_spanish() -> None:
    """The table's reports are in lower case, without endings; some look like Galician, so the source says what they are."""
    spanish = Extractor(language="es")
    said = {}
    for text in (
        "aument densid lsd sugestiv neumoni . pinz sen costofren derech .",
        "no se observ infiltr consolid ni derram pleural . silu cardiac aument .",
        "descart derram . engros pleural apical bilateral . atelectasi lamin lii .",
        "sin hallazg patolog edad pacient .",
    ):
        report = parse_report(text, False)
        assert report is not None
        said[text[:6]] = [(mention.code, mention.assertion, mention.side) for mention in spanish.of_report(report)]
    assert said["aument"] == [("pneumonia", "uncertain", "right"), ("blunted_costophrenic_angle", "present", "right")]
    assert [assertion for _, assertion, _ in said["no se "]] == ["absent", "absent", "absent"]
    assert said["descar"][0] == ("effusion", "uncertain", None)
    assert said["descar"][1:] == [("pleural_thickening", "present", "bilateral"), ("atelectasis", "present", "left")]
    assert said["sin ha"] == []
