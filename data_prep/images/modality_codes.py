"""The words for how an image was made, and of whom: one vocabulary for all sources, and nothing copied as it was typed.

Modalities are DICOM's codes (PS3.3 C.7.3.1.1.1), views its View Position terms and those of the public sets, in capitals.
They are listed in `modality_codes.yaml`. What is not known becomes `OTHER` for a modality and `UNKNOWN` for the rest, and
is counted in the data card: a header's free text may name a patient.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlp.core.config import read_yaml

RADIOGRAPH, OTHER, UNKNOWN = "CR", "OT", "unknown"
"""`CR` stands for a radiograph whose device is not known; "OT" is DICOM's own word for another modality."""
_KNOWN = read_yaml(Path(__file__).with_suffix(".yaml"))
MODALITIES = frozenset(_KNOWN["modalities"])
_VIEWS, _BODY_PARTS = frozenset(_KNOWN["views"]), frozenset(_KNOWN["body_parts"])
_MODALITY, _VIEW, _SEX, _SIDE = (
    {word: value for value, words in _KNOWN[f"{column}_words"].items() for word in words}
    for column in ("modality", "view", "sex", "side")
)


def modality_of(text: str | None) -> str | None:
    """Return the DICOM code of a modality, `OTHER` for one that is not known, None for none."""
    words = _words(text)
    if not words:
        return None
    code = words.upper().replace(" ", "")
    return code if code in MODALITIES else _MODALITY.get(words, OTHER)


def view_of(text: str | None) -> str | None:
    """Return a view in capitals (`AP`, `PA`, `LATERAL`, `AP SUPINE`, `CC`), `UNKNOWN` for others, None for none."""
    words = _words(text).upper()
    view = _VIEW.get(words, words)
    return (view if view in _VIEWS else UNKNOWN) if words else None


def sex_of(text: str | None) -> str | None:
    """Return M, F or O, `UNKNOWN` for what is none of them, None for none."""
    words = _words(text)
    return _SEX.get(words, UNKNOWN) if words else None


def side_of(text: str | None) -> str | None:
    """Return left, right or bilateral, None for none and for what has no side."""
    words = _words(text)
    return _SIDE.get(words, UNKNOWN) if words not in ("", "u", "unpaired") else None


def body_part_of(text: str | None) -> str | None:
    """Return DICOM's term for a part of the body (PS3.16 annex L), `UNKNOWN` for others, None for none."""
    words = _words(text).upper().replace(" ", "")
    return (words if words in _BODY_PARTS else UNKNOWN) if words else None


def age_of(text: str | None) -> str | None:
    """Return whole years ("34", "034Y", "006M", "34.5"), "90+" from 90 on, or a band ("18-40", "65+", "<40", "under 40").

    `UNKNOWN` for what is no age, None for none.
    """
    typed = " ".join((text or "").split())
    if not typed:
        return None
    if typed == UNKNOWN or _AGE_BAND.fullmatch(typed):
        return typed
    match = re.fullmatch(r"(\d{1,3})(?:\.\d+)?\s*([DWMY]?)", typed.upper())
    if not match:
        return UNKNOWN
    years = int(match[1]) // {"D": 365, "W": 52, "M": 12}.get(match[2], 1)
    return "90+" if 90 <= years < 130 else UNKNOWN if years >= 130 else str(years)


_AGE_BAND = re.compile(r"(?i)[<>]=?\s?\d{1,2}|\d{1,2}\+|\d{1,2}\s?(?:-|–|to)\s?\d{1,2}\+?|(?:under|over) \d{1,2}")
"""An age that is given as a band: two digits at most, so that no age above 90 is told apart."""


def _words(text: str | None) -> str:
    """Return a text in lower case with single blanks for whatever is no letter or digit."""
    return " ".join(re.findall(r"[a-z0-9]+", (text or "").lower()))
