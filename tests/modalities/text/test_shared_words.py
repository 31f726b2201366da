"""Names that many patients share are learnt in no case of letters, and the words of radiology are."""

import random
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.modalities.text.test_tokenizer_privacy import FINDINGS, KINDS, SYLLABLES, WAYS, pieces_of
from vlp.modalities.text.person_words import folded
from vlp.modalities.text.shared_words import PatientText, SharedWords
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp_prep.synthetic.generate import generate

CASES = {"normal": str, "lower": str.lower, "upper": str.upper}
SIGNED = (
    "No {a}. Signed by {first} {last} on 12/03/2019.",
    "Large {b}. Dictated by Dr. {last}",
    "No {b}. Mrs {last} has a {a}.",
    "Findings were discussed with Dr {last} by phone. No {a}. Small {b}.",
)
SPANISH = (
    "Paciente: {first} {last}. NHC {number}. No se observa {a}. Pequeño {b} izquierdo.",
    "Sra. {last} sin {a}. Firmado por {first} {last}",
    "Señor {last}: sin {b}. Dr. {first}",
)
GERMAN = (
    "Herr {last} wurde untersucht. Kein {a}, der {b} ist unverändert. Fallnummer {number}",
    "Patientin {first} {last}: kein {b} und keine {a}. Gez. Dr. {last}",
    "Frau {last} mit {a}, der Befund ist unverändert.",
)
BARE = (
    "{first} {last} no {a}. large {b} on the left.",
    "No {a} seen. {last} {first}",
    "Moderate {b}, no {a}; {last}, {first}",
)
FAMILIES = {
    "english": WAYS + SIGNED,
    "spanish": SPANISH,
    "german": GERMAN,
    "bare": BARE,
    "all": (*WAYS, *SPANISH, *GERMAN),
}


def patients(ways: tuple[str, ...], write: Callable[[str], str]) -> tuple[list[PatientText], set[str], set[str]]:
    """Return texts, names and record numbers of 800 patients: each first name is that of 20, each family name of 13."""
    rng = random.Random(11)
    firsts = ["".join(rng.sample(SYLLABLES, 2)) for _ in range(40)]
    lasts = ["".join(rng.sample(SYLLABLES, 3)) for _ in range(60)]
    texts, numbers = [], set()
    for index in range(800):
        first, last, number = rng.choice(firsts).title(), rng.choice(lasts).title(), f"{rng.randrange(10**6, 10**7)}"
        numbers.add(number)
        for _ in range(rng.choice((1, 1, 2, 6))):
            a, b = rng.sample(FINDINGS, 2)
            text = rng.choice(ways).format(first=first, last=last, number=number, a=a, b=b)
            texts.append(PatientText(write(text), f"p{index}"))
    return texts, {*firsts, *lasts}, numbers


def learnt(shared: SharedWords) -> set[str]:
    return {folded(run) for word in shared.counts for run in re.findall(r"[^\W_]+", word)}


@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
@pytest.mark.parametrize("ways", FAMILIES.values(), ids=FAMILIES)
def test_names_of_many_patients_are_not_learnt(ways: tuple[str, ...], write: Callable[[str], str]) -> None:
    texts, names, _ = patients(ways, write)
    words = learnt(SharedWords.count(texts, 5))
    assert not words & names and set(FINDINGS) <= words


@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_name_and_no_number_is_in_the_files(kind: str, write: Callable[[str], str], tmp_path: Path) -> None:
    texts, names, numbers = patients(FAMILIES["all"], write)
    tokenizer = build_tokenizer(TextSpec(kind=kind, vocab_size=4000, length=64), texts)  # type: ignore[arg-type]
    pieces = {folded(piece) for piece in pieces_of(tokenizer, tmp_path)}
    assert not pieces & (names | numbers)
    content = b"\n".join(path.read_bytes() for path in tmp_path.iterdir()).lower()
    assert not [word for word in names | numbers if word.encode() in content]


def test_who_signs_a_third_of_the_reports_is_not_learnt() -> None:
    rng = random.Random(1)
    texts = []
    for index in range(600):
        a, b = rng.sample(FINDINGS, 2)
        person = rng.choice(("anna smithson", "peter kowal", "lucia picardo"))
        ways = ("signed by {} md", "dictated by: dr {}", "electronically signed by {}", "radiologist: {}", "read by {}")
        texts.append(PatientText(f"no {a}. large {b}. {rng.choice(ways).format(person)}", f"p{index}"))
    words = learnt(SharedWords.count(texts, 5))
    assert words >= {*FINDINGS, "signed", "read", "md", "radiologist", "electronically"}
    assert not words & {"anna", "smithson", "peter", "kowal", "lucia", "picardo"}


@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_the_words_of_the_demo_are_learnt(write: Callable[[str], str]) -> None:
    owners: defaultdict[str, set[str]] = defaultdict(set)
    texts = []
    for index in range(400):
        sample = generate(index, 0, 32)
        assert sample.report is not None and sample.patient is not None
        texts.append(PatientText(write(sample.report.text), sample.patient))
        for run in re.findall(r"[^\W\d_]+", sample.report.text):
            owners[folded(run)].add(sample.patient)
    shared = {word for word, patients in owners.items() if len(patients) >= 5}
    assert len(shared) > 80
    assert len(shared & learnt(SharedWords.count(texts, 5))) >= 0.98 * len(shared)
