"""Identifiers counted in the texts of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from vlp.modalities.text.identifiers import scan
from vlp.sample import Sample

VARIABLE = "VLP_PREP_KEY"


def count(texts: Iterable[tuple[str, str]]) -> tuple[Counter[str], list[tuple[str, list[str]]]]:
    """Return counts by kind over (key, text) pairs, and the kinds found for each key that has any; never the text."""
    totals: Counter[str] = Counter()
    hits = []
    for key, text in texts:
        kinds = [finding.kind for finding in scan(text)]
        if kinds:
            totals.update(kinds)
            hits.append((key, sorted(set(kinds))))
    return totals, hits


def texts_of(sample: Sample) -> Iterator[str]:
    """Yield every text that a sample carries."""
    if sample.report is not None:
        yield sample.report.text
    yield from sample.captions
    yield from (box.phrase for box in sample.boxes)
