"""What a record states: of a class, by any of its names, and of the group that it is scored within."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlp.sample import Sample

YEARS = re.compile(r"(\d{1,3})(?:\.0)?(?:Y|\+)?")
"""An age in years as publishers write it: 68, 68.0, 068Y (DICOM), 90+."""
BAND, OLDEST = 20, 80


def label_of(record: Sample, called: Sequence[str], truth: str) -> int | None:
    """Return what a record states of a class by any of its names: 1, 0, or -1 (uncertain); None where it says nothing."""
    found = None if truth == "labels" else field_of(record, truth)
    if found is not None:
        return int(found in called)
    return next((record.labels[name] for name in called if name in record.labels), None)


def field_of(record: Sample, name: str) -> str | None:
    """Return the modality, the view or a group column of a record, None where it has none."""
    return getattr(record, name) if name in ("modality", "view") else record.groups.get(name)


def group_of(record: Sample, name: str) -> str | None:
    """Return the subgroup of a record, None where it has none; an age in years is one of 0-19, 20-39, 40-59, 60-79, 80+."""
    found = field_of(record, name)
    years = YEARS.fullmatch(found) if name == "age" and found else None
    if years is None:
        return found
    low = int(years[1]) // BAND * BAND
    return f"{OLDEST}+" if low >= OLDEST else f"{low}-{low + BAND - 1}"
