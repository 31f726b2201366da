"""What mentions say of findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlp.sample import ABSENT, PRESENT, UNCERTAIN, UNKNOWN, Mention


def finding_assertions(mentions: Iterable[Mention], findings: Sequence[str]) -> list[int]:
    """Return what a report says of each finding: 1 present, 0 absent, -1 uncertain, -2 not mentioned.

    Present outweighs uncertain. Present and absent together are uncertain, unless every denial is of another place
    ("no left effusion; small right effusion" asserts an effusion).
    """
    by_code: dict[str, list[Mention]] = {code: [] for code in findings}
    for mention in mentions:
        if mention.code in by_code:
            by_code[mention.code].append(mention)
    return [_assertion(by_code[code]) for code in findings]


def _assertion(mentions: Sequence[Mention]) -> int:
    if not mentions:
        return UNKNOWN
    present = {(mention.side, mention.zone) for mention in mentions if mention.assertion == "present"}
    absent = {(mention.side, mention.zone) for mention in mentions if mention.assertion == "absent"}
    if present:
        elsewhere = (None, None) not in absent and not present & absent
        return PRESENT if not absent or elsewhere else UNCERTAIN
    return ABSENT if all(mention.assertion == "absent" for mention in mentions) else UNCERTAIN
