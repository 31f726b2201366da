"""Spanish and German are read; a text in a language that no vocabulary knows gives no mentions, and is counted at build."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.mentions import score
from vlp_prep.cli import main
from vlp_prep.reports.concepts import Extractor
from vlp_prep.reports.languages import LANGUAGES
from vlp_prep.reports.languages.detect import detect_language
from vlp_prep.reports.vocabulary import default_vocabulary

HERE = Path(__file__).parent
UNKNOWN = {
    "fr": "Pas de pneumothorax. Absence de consolidation.",
    "it": "Non pneumothorax. Nessun nodulo.",
    "pt": "Sem derrame pleural. Não há pneumothorax.",
    "nl": "Geen pneumothorax. Geen consolidatie.",
    "sv": "Ingen pneumothorax. Hjärtat är inte förstorat.",
    "pl": "Nie stwierdza się pneumothorax.",
    "tr": "Pneumothorax izlenmedi.",
    "id": "Tidak ada pneumothorax.",
    "vi": "Không có pneumothorax.",
    "zh": "未见 pneumothorax 及胸腔积液，心影不大。",
    "ru": "Признаков pneumothorax не выявлено.",
}


@pytest.mark.parametrize("name", ["spanish", "german"])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_gold_sets_are_sound_and_scored(name: str, fresh: bool) -> None:
    """Written before the rules were run on them. The first score of the sets that were then learnt from: Spanish .98 and

    .94 (code and assertion, precision and recall), German 1.00 and .96. Put no rule right by the fresh ones.
    """
    path = HERE / f"{name}{'_fresh' if fresh else ''}_sentences.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) >= (15 if fresh else 30)
    for line in lines:
        for mention in line["mentions"]:
            assert line["text"][mention["start"] : mention["end"]] == mention["text"]
            assert mention["code"] in default_vocabulary().entries
    rates = score(Extractor(), path).rates()
    print(path.stem, {key: round(rate, 3) for key, rate in rates.items()})  # noqa: T201
    assert all(rate >= (0.75 if fresh else 0.95) for rate in rates.values()), rates


@pytest.mark.parametrize("code", ["es", "de"])
def test_every_word_of_a_translation_is_found(code: str) -> None:
    vocabulary, extractor = default_vocabulary(code), Extractor(kinds=("finding", "device"), language=code)
    between = {"es": "es", "de": "ist"}[code]
    for entry in vocabulary.entries.values():
        for phrase in (*entry.synonyms, *entry.denials):
            text = phrase.replace("~", between)
            assert entry.code in {mention.code for mention in extractor(text, [(0, len(text))])}, (entry.code, phrase)


@pytest.mark.parametrize("code", UNKNOWN)
def test_no_mentions_are_made_up(code: str) -> None:
    assert detect_language(UNKNOWN[code]) not in LANGUAGES
    assert not Extractor().extract(UNKNOWN[code])


@pytest.mark.parametrize("code", ["en", "es", "de"])
def test_gold_sentences_are_taken_for_their_language(code: str) -> None:
    names = {"en": ["gold", "adversarial", "held_out"], "es": ["spanish"], "de": ["german"]}[code]
    texts = [json.loads(line)["text"] for name in names for line in (HERE / f"{name}_sentences.jsonl").open()]
    wrong = [text for text in texts if detect_language(text) != code]
    assert len(wrong) <= 0.03 * len(texts), wrong


def test_it_is_said_at_build_and_in_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    texts = ["No pneumothorax.", UNKNOWN["fr"], "Kein Pneumothorax.", "x" * 1000 + " is a word. No effusion."]
    rows = []
    for number, text in enumerate(texts):
        Image.new("L", (32, 32), 40 * number).save(raw / f"{number}.png")
        rows.append({"image": f"{number}.png", "key": f"k{number}", "report": text})
    (raw / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words = ["--split", "none", "--workers", "0", "--ids", "keep"]
    assert main(["build", "pairs", "--raw", str(raw), "--out", str(out), *words]) == 0
    assert "1 of 4 samples have a report in a language that the vocabulary does not know" in capsys.readouterr().err
    card = (out / "README.md").read_text()
    assert "report in a language that the vocabulary does not know | 1 |" in card
    assert "report had a word of more than 200 characters, cut | 1 |" in card


def test_spanish_words_of_place_stand_behind_their_finding_but_both() -> None:
    places = LANGUAGES["es"].places
    assert places.behind == {*places.lobes, *places.sides, *places.zones} - {"ambos", "ambas"}
