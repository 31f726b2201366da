"""English: what denies, doubts and places a finding in the reports of English-speaking hospitals."""

from __future__ import annotations

import re
from functools import lru_cache

from .base import read_language


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word in lower case and in the singular, roughly: both sides of a comparison go through it."""
    word = re.sub(r"['’]s$", "", word.lower())
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


ENGLISH = read_language("en", normal)
