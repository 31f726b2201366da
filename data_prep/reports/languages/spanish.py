"""Spanish: what denies, doubts and places a finding, with or without accents, also in PadChest's cut words ("derram")."""

from __future__ import annotations

import re
from functools import lru_cache

from .base import read_language

_SUFFIX = re.compile(
    r"(?:aciones|acion|iciones|icion|amientos?|imientos?|adas|ados|ada|ado|idas|idos|ida|ido|ares|ar|ales|al|iones|ion|es|os|"
    r"as|o|a|e|s)$"
)
_ACCENTS = str.maketrans("áéíóúüñÁÉÍÓÚÜÑ", "aeiouunAEIOUUN")


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word without accents and endings: both sides of a comparison, and words that are cut already, meet there."""
    word = word.lower().translate(_ACCENTS)
    while len(word) > 3:
        match = _SUFFIX.search(word)
        if match is None or match.start() < 3:
            break
        word = word[: match.start()]
    return word


SPANISH = read_language("es", normal, fold=_ACCENTS)
