"""The time that a text takes grows with its length, whatever stands in it: reading, scanning, hashing, grouping."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from vlp.modalities.text.identifiers import scan
from vlp_prep.reports.concepts import Extractor
from vlp_prep.reports.sections import parse_report
from vlp_prep.reports.statements import LONGEST, split_sentences
from vlp_prep.splits import near_duplicates

UNITS = {
    "no full stops": "no effusion or edema ",
    "lines": "no pneumothorax\n",
    "cues": "no not possible ",
    "stops": ". ",
    "dots": ".",
    "punctuation": ".,;:!?-()[]|*# ",
    "blanks": " ",
    "line ends": "\n",
    "one word": "a",
    "numbers": "1. ",
    "boxes": "[x] effusion ",
    "answers": "effusion: none ",
    "marks": "[**",
    "initials": "A. B. ",
    "headings": "\nHISTORY: effusion",
    "entities": "&amp;",
    "open tags": "<",
    "signatures": "discussed ",
    "places": "left effusion right ",
    "german": "Kein Erguss oder Infiltrat, ",
    "addresses": "a.a@",
    "dates": "12/3/2019 ",
    "names": "Dr. Aa Bb ",
    "titles": "mrn tel name: ",
}
extractor = Extractor()


def seconds(work: Callable[[str], object], text: str) -> float:
    """Return the processor's time, which other processes of the machine do not lengthen as they do the clock's."""
    start = time.process_time()
    work(text)
    return time.process_time() - start


def read(text: str) -> None:
    for clean in (False, True):
        report = parse_report(text, clean)
        if report is not None:
            extractor.of_report(report)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("work", [read, scan], ids=["read", "scan"])
def test_five_times_the_text_takes_about_five_times_the_time(unit: str, work: Callable[[str], object]) -> None:
    """Quadratic time would be 25 times as much; the bound leaves room for a machine that is shared."""
    text = "No effusion. The heart is large. " + unit * (4000 // len(unit))
    work(text)
    short, long = seconds(work, text), seconds(work, text * 5)
    assert long < 14 * short + 0.5, (short, long)


def test_a_statement_has_a_longest_length() -> None:
    spans = split_sentences("no effusion or edema " * 1000)
    assert max(end - start for start, end in spans) <= LONGEST
    assert sum(end - start for start, end in spans) > 20_000


def test_fifty_thousand_equal_or_short_texts_are_grouped_in_seconds() -> None:
    equal = np.stack([near_duplicates.text_hash("No effusion.")] * 50_000)
    start = time.process_time()
    assert [len(group) for group in near_duplicates.group(near_duplicates.near_hashes(equal, 3), len(equal))] == [
        50_000
    ]
    rng = np.random.default_rng(0)
    near = rng.integers(0, 256, (20_000, 8), dtype=np.uint8)
    near[10_000:] = near[:10_000]
    near[10_000:, 0] ^= 1  # one bit
    groups = near_duplicates.group(near_duplicates.near_hashes(near, 3), len(near))
    assert groups == [[index, index + 10_000] for index in range(10_000)]
    assert time.process_time() - start < 60


def test_groups_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (60, 8), dtype=np.uint8)
    hashes = np.concatenate([base, base[:20], base[:10] ^ np.uint8(1) * (np.arange(8) < 2).astype(np.uint8)])
    bits = np.unpackbits(hashes, axis=1).astype(int)
    near = np.abs(bits[:, None] - bits[None]).sum(-1) <= 3
    reached = np.linalg.matrix_power(near.astype(int), 4) > 0
    expected = sorted({tuple(np.flatnonzero(row).tolist()) for row in reached if row.sum() > 1})
    assert [
        tuple(group) for group in near_duplicates.group(near_duplicates.near_hashes(hashes, 3), len(hashes))
    ] == expected


def test_texts_of_other_letters_and_without_words_differ() -> None:
    texts = ["无胸腔积液", "左侧气胸", "Ergüsse", "12", "34", "No effusion."]
    assert len({near_duplicates.text_hash(text).tobytes() for text in texts}) == len(texts)
    assert (near_duplicates.text_hash("No effusion 12/3.") == near_duplicates.text_hash("no EFFUSION")).all()
