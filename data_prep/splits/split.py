"""Which side of a split a sample falls on: a seeded hash of its patient, so that no patient is on two sides.

A hash needs no list of all patients: it gives the same answer on every machine and for every later delivery of the same
hospital's data, and adding patients moves no other patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain, repeat

from vlp.core.config import ConfigError

NAMES = ("train", "val", "test")
SHARES = "0.8,0.1,0.1"
"""Of train, val and test, where nothing else is said."""


def parse_shares(text: str) -> dict[str, float]:
    """Return the shares of `0.8,0.1,0.1` (train, val, test) or `a=0.5,b=0.5`, {} for `none`; raises ConfigError."""
    if text == "none":
        return {}
    shares: dict[str, float] = {}
    for usual, part in zip(chain(NAMES, repeat("")), text.split(","), strict=False):
        name, equals, number = part.rpartition("=")
        try:
            shares[name.strip() if equals else usual] = float(number)
        except ValueError:
            raise ConfigError(f"--split {text!r}: {number!r} is not a number") from None
    if "" in shares or any(value < 0 for value in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--split {text!r}: expected shares that add up to 1, like 0.8,0.1,0.1 or train=0.9,test=0.1")
    return shares


def without_test(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares scaled up to 1 without `test`; `{"train": 1}` where nothing else is left, {} for {}."""
    rest = {name: share for name, share in shares.items() if name != "test"}
    total = sum(rest.values())
    if not shares:
        return {}
    return {name: share / total for name, share in rest.items()} if total else {"train": 1.0}


def choose(owner: str, shares: Mapping[str, float], seed: int) -> str | None:
    """Return the split of a patient: where the patient's hash falls among the shares; None where there are none."""
    if not shares:
        return None
    digest = hashlib.blake2b(f"{seed}\0{owner}".encode(), digest_size=8).digest()
    return share_at(int.from_bytes(digest, "big") / 2**64, shares)


def share_at(at: float, shares: Mapping[str, float]) -> str:
    """Return whose share a number in [0, 1) falls into, the shares laid end to end."""
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if at < edge:
            return name
    return [name for name, share in shares.items() if share > 0][-1]


def leaks(rows: Iterable[tuple[str, str | None, str]], kind: str = "patient") -> list[str]:
    """Return a line for each group (a patient, or near-identical images) that is found in more than one split.

    `rows` are (split, group, key); rows without a group are skipped.
    """
    sides: dict[str, dict[str, str]] = {}
    for split, group, key in rows:
        if group:
            sides.setdefault(group, {}).setdefault(split, key)
    lines = []
    for _, keys in sorted(sides.items()):
        names = sorted(keys)
        if len(names) > 1:
            shown = ", ".join([keys[name] for name in names[:4]] + ["..."] * (len(names) > 4))
            lines.append(f"{kind} in {' and '.join(names)}: {shown}")
    return lines
