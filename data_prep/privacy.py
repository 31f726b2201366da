"""Patient data stays with the hospital: ids become keyed hashes, and texts are searched for what identifies a person.

The key comes from an environment variable or a file and is never written. The same key gives the same hashes, so that
two builds of one hospital's data can be joined; without the key nobody can list all ids and compare.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from vlp.config import ConfigError
from vlp.identifiers import scan
from vlp.types import Sample

from .sources.base import Record

VARIABLE = "VLP_PREP_KEY"
SHORTEST = 16


def read_key(file: Path | None) -> bytes | None:
    """Return the key from `file`, else from the environment variable VLP_PREP_KEY, else None; raises ConfigError."""
    if file is not None:
        try:
            key = file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the key file {file}: {error.strerror}") from None
        where = str(file)
    else:
        key, where = os.environ.get(VARIABLE, "").encode().strip(), VARIABLE
        if not key:
            return None
    if len(key) < SHORTEST:
        raise ConfigError(f"the key in {where} has {len(key)} characters; at least {SHORTEST} are needed")
    return key


class IdHasher:
    """Replace ids by the first 16 hexadecimal digits of HMAC-SHA256(key, kind and id)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, kind: str, identity: str) -> str:
        return hmac.new(self._key, f"{kind}\0{identity}".encode(), hashlib.sha256).hexdigest()[:16]

    def record(self, record: Record) -> str:
        """Return the hashed key of a record, for messages."""
        return self("key", record.key)

    def sample(self, sample: Sample) -> Sample:
        """Return the sample with its key, study and patient replaced."""
        return replace(
            sample,
            key=self("key", sample.key),
            study=self("study", sample.study) if sample.study else None,
            patient=self("patient", sample.patient) if sample.patient else None,
        )


def count(texts: Iterable[tuple[str, str]]) -> tuple[Counter[str], list[tuple[str, list[str]]]]:
    """Return counts by kind over (key, text) pairs, and the kinds found for each key that has any; never the text."""
    totals: Counter[str] = Counter()
    hits = []
    for key, text in texts:
        kinds = [one.kind for one in scan(text)]
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
