"""Which record goes into which shard, decided before anything is read: a pure function of the records and the options.

Records fill shards in the order of the source, one open shard per split. A shard is a list of records, not of written
samples: what is rejected leaves its shard smaller and moves nothing. So any shard can be made by any process or machine,
now or after an interruption, and always holds the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from ..sources.base import LEARN, Record
from ..splits.split import choose, without_test

_VALIDATION = {"valid", "validate", "validation", "dev"}


def standard_split(name: str) -> str:
    """Return a publisher's name of a split as ours: lower case, letters, digits and `_`, `val` for all its synonyms."""
    clean = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "none"
    return "val" if clean in _VALIDATION else clean


@dataclass(slots=True)
class ShardPlan:
    """A shard to be: its place in the order of all shards, its records with their place in the source, its duplicates."""

    ordinal: int
    split: str | None
    number: int
    records: list[tuple[int, Record]] = field(default_factory=list)
    duplicates: list[tuple[int, Record]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.split or 'shard'}-{self.number:06d}"

    def digest(self) -> str:
        """Return a hash of what the shard is made of, to notice on resuming that the raw data has changed."""
        names = "\n".join(f"{index} {record.key}" for index, record in [*self.records, *self.duplicates])
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def plan(records: Iterable[Record], shares: Mapping[str, float], seed: int, shard_size: int) -> Iterator[ShardPlan]:
    """Yield the shards; memory holds one open shard per split and 8 bytes of hash per key.

    A record with its own `split` keeps it; the others are split by patient, else study, else key, those of `LEARN` among
    all shares but `test`. A key that was seen before is set aside as a duplicate of the shard that it would have gone to.
    """
    learning = without_test(shares)
    filling: dict[str | None, ShardPlan] = {}
    numbers = Counter[str | None]()
    ordinals = count()
    seen: set[int] = set()
    for index, record in enumerate(records):
        owner = record.patient or record.study or record.key
        if record.split == LEARN:
            split = choose(owner, learning, seed)
        else:
            split = standard_split(record.split) if record.split else choose(owner, shares, seed)
        if split not in filling:
            filling[split] = ShardPlan(-1, split, numbers[split])
            numbers[split] += 1
        shard = filling[split]
        key = int.from_bytes(hashlib.blake2b(record.key.encode(), digest_size=8).digest(), "big")
        if key in seen:
            shard.duplicates.append((index, record))
            continue
        seen.add(key)
        shard.records.append((index, record))
        if len(shard.records) == shard_size:
            shard.ordinal = next(ordinals)
            yield filling.pop(split)
    for split in sorted(filling, key=str):
        filling[split].ordinal = next(ordinals)
        yield filling[split]
