"""German: what denies, doubts and places a finding, with umlauts or their two-letter spellings."""

from __future__ import annotations

import re
from functools import lru_cache

from .base import read_language

_SUFFIX = re.compile(r"(?:ern|en|er|es|em|e|n|s)$")
_UMLAUTS = str.maketrans("äöüáéó", "aouaeo")


@lru_cache(maxsize=50_000)
def normal(word: str) -> str:
    """Return a word without umlauts and endings: "Ergüsse", "Erguesse" and "Erguss" are one."""
    word = word.lower().translate(_UMLAUTS).replace("ß", "ss")
    for pair, letter in (("ae", "a"), ("oe", "o"), ("ue", "u")):
        word = word.replace(pair, letter)
    if len(word) > 4 and not word.endswith("ss"):
        match = _SUFFIX.search(word)
        if match is not None and match.start() >= 4:
            return word[: match.start()]
    return word


GERMAN = read_language("de", normal)
