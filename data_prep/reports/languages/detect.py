"""Which language is a text in? Its function words, then the words of the vocabularies, decide; no model and no training.

Only `READABLE` languages have a vocabulary. The other lists are there to notice what cannot be: without them "Pas de
pneumothorax" would be an English report of a pneumothorax.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from vlp.core.config import config, read_yaml, validate


@config
class _Markers:
    markers: dict[str, str]
    denials: str
    general: str


@lru_cache
def _file() -> _Markers:
    path = Path(__file__).parent / "markers.yaml"
    return validate(_Markers, read_yaml(path), path.name)


@lru_cache
def _markers() -> dict[str, list[tuple[str, int]]]:
    """Return the function words with what they count for which languages.

    A foreign word that the vocabulary of a readable language holds counts for that one too: "cap", "normal", "derrame".
    """
    file = _file()
    denials = set(file.denials.split())
    words = {code: set(listed.split()) for code, listed in file.markers.items()}
    every = set().union(*words.values()) - denials
    for code in READABLE:
        normal, lexicon = _normal(code), _lexicon(code)
        words[code] |= {word for word in every if normal(word) in lexicon}
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for code, listed in words.items():
        for word in listed:
            found[word].append((code, 3 if word in denials else 1))
    return dict(found)


_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-zÀ-ɏḀ-ỿ]")
SAMPLE = 20_000
UNREAD = "report in a language that the vocabulary does not know"
"""What is noted of a sample whose report is of none of them."""
READABLE = ("en", "es", "de")


def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language, None where it is of none in `markers.yaml`.

    A text without any word that tells is taken for English, the vocabulary's own language.
    """
    words = [word.lower() for word in _WORD.findall(text[:SAMPLE]) if len(word) > 1]
    if not words:
        return "en"
    letters = "".join(words[:2000])
    if len(_LATIN.findall(letters)) < 0.5 * len(letters):
        return None
    counts = Counter(words)
    marked: Counter[str] = Counter()
    for word, count in counts.items():
        for code, weight in _markers().get(word, ()):
            marked[code] += weight * count
    best = max(marked.values(), default=0)
    leaders = [code for code, score in marked.items() if score == best]
    known = {code: _share(words, code) for code in READABLE}
    if best > 0:
        if len(leaders) == 1:
            return leaders[0]
        readable = [code for code in leaders if code in known]
        if readable:
            return max(readable, key=lambda code: (known[code], code == "en"))
        return leaders[0]
    likely = max(known, key=lambda code: (known[code], code == "en"))
    if known[likely] >= 0.3 or len(words) < 3:
        return likely
    return None


def _normal(code: str) -> Callable[[str], str]:
    from . import LANGUAGES

    return LANGUAGES[code].normal


def _share(words: list[str], code: str) -> float:
    normal, lexicon = _normal(code), _lexicon(code)
    return sum(normal(word) in lexicon for word in words[:500]) / len(words[:500])


@lru_cache
def _lexicon(code: str) -> frozenset[str]:
    """Return the words, as `normal` has them, of a language's vocabulary, markers and places."""
    from ..vocabulary import default_vocabulary
    from . import LANGUAGES

    language = LANGUAGES[code]
    words = set(_file().markers[code].split()) | set(language.places.sides) | set(language.places.zones)
    words |= set(_file().general.split()) if code == "en" else set()
    for entry in default_vocabulary(code).entries.values():
        for phrase in (*entry.synonyms, *entry.denials):
            words.update(_WORD.findall(phrase.lower()))
    return frozenset(language.normal(word) for word in words)
