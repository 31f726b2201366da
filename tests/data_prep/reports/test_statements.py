"""What ends a statement, and with it the reach of a "no"; answers and check boxes; statements about earlier studies."""

import pytest

from vlp_prep.reports.concepts import Extractor
from vlp_prep.reports.sections import parse_report

THREE = ["absent", "present", "present"]


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor()


def said(extractor: Extractor, text: str, clean: bool = False) -> list[str]:
    report = parse_report(text, clean)
    assert report is not None
    return [mention.assertion for mention in extractor.of_report(report)]


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS\nNo pneumothorax\nLarge pleural effusion\nCardiomegaly",
        "no pneumothorax\nlarge effusion\ncardiomegaly",
        "NO PNEUMOTHORAX\nLARGE EFFUSION\nCARDIOMEGALY",
        "No pneumothorax\r\nLarge effusion\rCardiomegaly",
        "No pneumothorax\u2028Large effusion\x0bCardiomegaly",
        "• No pneumothorax\n• Large effusion\n• Cardiomegaly",
        "• No pneumothorax • Large effusion • Cardiomegaly",
        "* No pneumothorax * Large effusion * Cardiomegaly",
        "o No pneumothorax\no Large effusion\no Cardiomegaly",
        "-No pneumothorax\n-Large effusion\n-Cardiomegaly",
        "No pneumothorax - Large effusion - Cardiomegaly",
        "1.No pneumothorax\n2.Large effusion\n3.Cardiomegaly",
        "1.No pneumothorax.2.Large effusion.3.Cardiomegaly.",
        "1. No pneumothorax 2. Large effusion 3. Cardiomegaly",
        "(1)No pneumothorax(2)Large effusion(3)Cardiomegaly",
        "a) No pneumothorax b) Large effusion c) Cardiomegaly",
        "No pneumothorax | Large effusion | Cardiomegaly",
        "No pneumothorax / Large effusion / Cardiomegaly",
        "FINDINGS:\tNo pneumothorax\tLarge effusion\tCardiomegaly",
        "No pneumothorax   Large effusion   Cardiomegaly",
        "No pneumothorax.Large effusion.Cardiomegaly.",
        "no pneumothorax.large effusion.cardiomegaly",
        "NO PNEUMOTHORAX.LARGE EFFUSION.CARDIOMEGALY",
        "No pneumothorax;Large effusion;Cardiomegaly",
        "No pneumothorax<br>Large effusion<BR/>Cardiomegaly",
        "<ul><li>No pneumothorax</li><li>Large effusion</li><li>Cardiomegaly</li></ul>",
        "<p>No pneumothorax</p><p>Large effusion</p><div>Cardiomegaly</div>",
        "No pneumothorax&lt;br&gt;Large effusion&#10;Cardiomegaly",
        r"No pneumothorax\nLarge effusion\r\nCardiomegaly",
        r"No pneumothorax\.br\Large effusion\.br\Cardiomegaly",
        r"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 No pneumothorax\par Large effusion\line Cardiomegaly\par}",
        "Chest: no pneumothorax\nPleura: large effusion\nHeart: cardiomegaly",
        "PNEUMOTHORAX: NO\nPLEURAL EFFUSION: YES\nCARDIOMEGALY: YES",
        "Pneumothorax - no\nEffusion - small\nCardiomegaly - present",
        "Pneumothorax: negative\nEffusion: positive\nCardiomegaly: moderate",
        "Pneumothorax: Not seen.\nEffusion: Seen.\nCardiomegaly: Borderline.",
        "Pneumothorax: none identified; effusion: small; cardiomegaly: yes",
        "Pneumothorax: no, effusion: yes, cardiomegaly: yes",
        "Pneumothorax = absent\nEffusion = right\nCardiomegaly = present",
        "Pneumothorax? No\nEffusion? Yes\nCardiomegaly? Yes",
        "Pneumothorax none.\nEffusion small.\nCardiomegaly.",
        "Pneumothorax (-)\nEffusion (+)\nCardiomegaly (+)",
        "Pneumothorax:\nNone\nEffusion:\nSmall\nCardiomegaly:\nYes",
        "Pneumothorax\nNo\nEffusion\nYes\nCardiomegaly\nYes",
        "| Pneumothorax | No |\n| Effusion | Yes |\n| Cardiomegaly | Mild |",
        "Pneumothorax\tNone\nEffusion\tSmall\nCardiomegaly\tYes",
        "<table><tr><td>Pneumothorax</td><td>No</td></tr><tr><td>Effusion</td><td>Yes</td></tr></table>Cardiomegaly",
        "[ ] Pneumothorax\n[x] Effusion\n[X] Cardiomegaly",
        "[ ] Pneumothorax [x] Effusion [x] Cardiomegaly",
        "☐ Pneumothorax\n☑ Effusion\n☒ Cardiomegaly",
        "( ) Pneumothorax\n(x) Effusion\n(X) Cardiomegaly",
        "Pneumothorax ☐ Effusion ☑ Cardiomegaly ☑",
        "Pneumothorax: [ ] Yes [x] No\nEffusion: [x] Yes [ ] No\nCardiomegaly: [ ] None [x] Mild [ ] Severe",
    ],
)
def test_a_template_says_of_each_finding_what_it_says(extractor: Extractor, text: str, clean: bool) -> None:
    assert said(extractor, text, clean) == THREE


@pytest.mark.parametrize(
    "text",
    [
        "There is no consolidation, effusion\nor pneumothorax.",
        "THERE IS NO CONSOLIDATION, EFFUSION\nOR PNEUMOTHORAX.",
        "The lungs are clear without focal\nconsolidation, effusion or edema.",
        "The heart is normal in size and there is no evidence of\neffusion, consolidation or pneumothorax on either side.",
        "No evidence of\nPneumothorax, effusion or edema",
    ],
)
def test_a_wrapped_line_goes_on(extractor: Extractor, text: str) -> None:
    assert set(said(extractor, text)) == {"absent"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Not consistent with pneumonia.", ["absent"]),
        ("Findings are not suggestive of edema.", ["absent"]),
        ("The appearance isn't typical for pneumonia.", ["absent"]),
        ("The changes do not appear to represent pneumonia.", ["absent"]),
        ("Appearance is inconsistent with edema.", ["absent"]),
        ("Findings argue against pneumonia.", ["absent"]),
        ("Likely a skin fold, not a pneumothorax.", ["uncertain", "absent"]),
        ("Nodule in the left lung, not definitely seen on prior.", ["present"]),
        ("Nodule, not clearly visible on the previous CT.", ["present"]),
        ("Left effusion, not present on 3/4/2019.", ["present"]),
        ("Effusion was not seen previously.", ["present"]),
        ("No pneumothorax on the prior study.", ["uncertain"]),
        ("On the prior study there was no effusion.", ["uncertain"]),
        ("No effusion, as on the prior study.", ["absent"]),
        ("Pleural effusion: No pleural effusion.", ["absent", "absent"]),
        ("Infiltrate: no consolidation.", ["absent", "absent"]),
        ("Pneumothorax: no change.", ["present"]),
        ("Pneumothorax: not assessed", ["uncertain"]),
        ("Pneumothorax:", ["uncertain"]),
        ("Is there a pneumothorax?", ["uncertain"]),
        ("[ ] No pneumothorax", ["uncertain"]),
        ("[x] No pneumothorax", ["absent"]),
        ("Heart size: normal", ["absent"]),
    ],
)
def test_what_is_said_of_today(extractor: Extractor, text: str, expected: list[str]) -> None:
    assert said(extractor, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "See www.hospital.org/no.effusion.",
        "Fig. 2.5 cm, e.g.effusion of 1.5 cm.",
        "Seen by Dr. Smith at 3.30 p.m. with edema.",
    ],
)
def test_a_stop_inside_a_word_or_a_number_ends_nothing(text: str) -> None:
    report = parse_report(text)
    assert report is not None and len(report.sentences) == 1


def test_addenda_are_joined_in_order_and_hide_nothing() -> None:
    text = (
        "FINDINGS: Large effusion in the left lung.\nIMPRESSION: Effusion, and a long impression.\n"
        "ADDENDUM: Read again.\nFINDINGS: Nodule.\nIMPRESSION: No change.\nADDENDUM: Phoned."
    )
    report = parse_report(text)
    assert report is not None
    assert report.findings == "Large effusion in the left lung.\nNodule."
    assert report.impression == "Effusion, and a long impression.\nNo change."
    assert report.section("notification") == "Read again.\nPhoned."
    assert [report.text[a:b] for a, b in report.sentences if "Nodule" in report.text[a:b]] == ["Nodule."]
    clean = parse_report(text, clean=True)
    assert clean is not None and clean.findings == "Large effusion in the left lung. Nodule."


def test_a_second_history_is_no_finding(extractor: Extractor) -> None:
    text = "HISTORY: Cough, and a very long history.\nINDICATION: Pneumonia.\nFINDINGS: Nodule."
    report = parse_report(text)
    assert report is not None
    assert [mention.code for mention in extractor.of_report(report)] == ["nodule"]
