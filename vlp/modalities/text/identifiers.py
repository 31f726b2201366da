"""What identifies a person in a text, by pattern: names with a title or a label, numbers, dates, addresses.

Identifiers in the sense of HIPAA's safe harbour that regular expressions can find in English, Spanish and German reports.
Names without a title or a label before them need a language model of the language: see `scan`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlp.core.config import read_yaml


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a text that may identify a person: its kind and characters `[start, end)`."""

    kind: str
    start: int
    end: int


TABLES = read_yaml(Path(__file__).with_name("identifiers.yaml"))


def _compiled() -> Iterator[tuple[str, re.Pattern[str]]]:
    parts: dict[str, str] = {}
    for name, lines in TABLES["parts"].items():
        parts[name] = "".join(lines) % parts
    for entry in TABLES["patterns"]:
        for kind, lines in entry.items():
            yield kind, re.compile("".join(lines) % parts)


PATTERNS = tuple(_compiled())


def scan(text: str) -> list[Finding]:
    """Return what may identify a person in a text, in order, without overlaps (the first pattern of the list wins).

    Regular expressions: fast, offline, explainable. They miss a bare name in running text; a recogniser such as Presidio
    finds some of those at 100 times the cost and with many false alarms on eponyms (Kerley, Swan-Ganz).
    """
    taken = bytearray(len(text))
    found: list[Finding] = []
    for kind, pattern in PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken.find(1, start, end) < 0:
                taken[start:end] = b"\1" * (end - start)
                found.append(Finding(kind, start, end))
    return sorted(found, key=lambda finding: finding.start)
