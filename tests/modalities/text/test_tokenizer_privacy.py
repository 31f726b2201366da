"""No patient is a token: made-up patients with names and numbers in their reports, and every kind that is trained here."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vlp.core.config import ConfigError
from vlp.modalities.text.person_words import folded
from vlp.modalities.text.shared_words import PatientText, SharedWords
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer

KINDS = ("wordpiece", "sentencepiece")
SYLLABLES = "ba ko wal zer min tho lu dra fen gor hul jes kri lom nev pog rask sul tib vor wek yan zim quo".split()  # noqa: SIM905
FINDINGS = ("effusion", "pneumothorax", "consolidation", "cardiomegaly", "atelectasis", "edema", "nodule", "fracture")
WAYS = (
    "Patient {first} {last}, {number}. There is a small {a} on the left. No {b} is seen.",
    "{first} {last} ({number}) was examined. No {a}. The {b} is unchanged.",
    "Mr. {last} was seen with a {a}. MRN: {number}. No {b}.",
    "No {a}. Moderate {b} on the right. Discussed with {first} {last}, accession {number}.",
    "Name: {last}, {first}\nNo {a}\nLarge {b}\nID {number}",
    "{last} {number} no {a} and large {b} of {first}",
)


def patients(count: int = 800) -> tuple[list[PatientText], set[str], set[str]]:
    """Return the texts, names and record numbers: 40 first names that many share, family names that few share."""
    rng = random.Random(7)
    firsts = ["".join(rng.sample(SYLLABLES, 2)).title() for _ in range(40)]
    lasts = ["".join(rng.sample(SYLLABLES, 3)).title() for _ in range(620)]
    texts, numbers = [], set()
    for index in range(count):
        first, last, number = rng.choice(firsts), rng.choice(lasts), f"{rng.randrange(10**6, 10**7)}"
        numbers.add(number)
        for _ in range(rng.choice((1, 1, 2, 6))):  # six reports do not make six patients
            a, b = rng.sample(FINDINGS, 2)
            way = rng.choice(WAYS)
            texts.append(PatientText(way.format(first=first, last=last, number=number, a=a, b=b), f"p{index}"))
    return texts, {*firsts, *lasts}, numbers


TEXTS, NAMES, NUMBERS = patients()


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(TextSpec(kind=request.param, vocab_size=4000, length=64), TEXTS)


def pieces_of(tokenizer: Tokenizer, folder: Path) -> set[str]:
    """Return the pieces as the saved files hold them."""
    tokenizer.save(folder)
    if (folder / "tokenizer.json").is_file():
        tree = json.loads((folder / "tokenizer.json").read_text())
        assert "merges" not in tree["model"]
        return {piece.removeprefix("##") for piece in tree["model"]["vocab"]}
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=(folder / "spiece.model").read_bytes())
    return {model.id_to_piece(number).strip("▁") for number in range(model.get_piece_size())}


def test_no_name_and_no_number_is_a_token_or_in_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pieces = pieces_of(tokenizer, tmp_path)
    assert not pieces & {folded(name) for name in NAMES} and not pieces & NUMBERS
    assert not [piece for piece in pieces if re.search(r"\d{2}", piece)]
    content = b"\n".join(path.read_bytes() for path in tmp_path.iterdir()).lower()
    assert not [name for name in NAMES if folded(name).encode() in content]
    assert not [number for number in NUMBERS if number.encode() in content]


def test_what_all_share_is_learnt_and_all_can_be_spelled(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert set(FINDINGS) <= pieces_of(tokenizer, tmp_path)
    unknown = 1  # both kinds' [UNK]
    for text in TEXTS[:50]:
        assert unknown not in tokenizer([text.lower()]).tokens.ids[0].tolist(), text
    assert tokenizer.trained == load_tokenizer(tmp_path).trained
    assert tokenizer.trained is not None and tokenizer.trained["patients"] == 800
    assert tokenizer.trained["min_patients"] == 5 and tokenizer.trained["words_left_out"] > 1000


@pytest.mark.parametrize("write", [str.upper, str.title])
def test_names_that_many_share_are_known_by_their_company(write: Callable[[str], str]) -> None:
    """Without capitals, a first name of twenty patients is one because it stands beside family names of one or two."""
    texts = [PatientText(write(str(text)), text.patient) for text in TEXTS]
    counts = SharedWords.count(texts, 5).counts
    learnt = {folded(run) for word in counts for run in re.findall(r"[^\W_]+", word)}
    assert not learnt & {folded(name) for name in NAMES} and set(FINDINGS) <= learnt


def test_a_word_counts_once_a_patient() -> None:
    many = [PatientText("zebrasign effusion", "a")] * 50
    few = [PatientText("effusion", f"b{index}") for index in range(50)]
    counts = SharedWords.count([*many, *few], 5).counts
    assert set(counts) == {"effusion"} and counts["effusion"] == 100


def test_german_nouns_are_no_names() -> None:
    texts = [PatientText("Es zeigt sich kein Erguss und ein Rundherd im Lappen.", f"p{index}") for index in range(300)]
    texts += [PatientText("Es ist der Befund mit Stauung unverändert.", f"q{index}") for index in range(20)]
    assert {"Rundherd", "Stauung"} <= set(SharedWords.count(texts, 5).counts)


def test_one_patient_alone_gives_characters_only() -> None:
    for kind in KINDS:
        tokenizer = build_tokenizer(TextSpec(kind=kind, vocab_size=100), [PatientText("Effusion of Kowalska", "p")])
        assert tokenizer(["effusion"]).tokens.mask.sum() >= 8


def test_a_limit_that_protects_nobody_is_refused() -> None:
    with pytest.raises((ConfigError, ValueError), match="at least 2"):
        TextSpec(shared_by=1)
