"""Where a sentence puts a finding: side (left, right, bilateral) and zone (upper, mid, lower) for each mention.

Words of place are bound to the mention that they stand next to: "left basal atelectasis and a small right effusion" has
two. A place that follows several mentions, or is put in front of the sentence, is shared: "atelectasis and effusion at
the left base".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LOBES = {
    "rul": ("right", "upper"),
    "rml": ("right", "mid"),
    "rll": ("right", "lower"),
    "lul": ("left", "upper"),
    "lll": ("left", "lower"),
    "lingula": ("left", "mid"),
    "lingular": ("left", "mid"),
    "retrocardiac": ("left", "lower"),
    "bibasilar": ("bilateral", "lower"),
    "bibasal": ("bilateral", "lower"),
    "biapical": ("bilateral", "upper"),
}
_SIDES = {"right": "right", "rt": "right", "left": "left", "lt": "left", "both": "bilateral", "bilateral": "bilateral"}
_SIDES |= {"bilaterally": "bilateral", "rightward": "right", "leftward": "left"}
_ZONES = {"upper": "upper", "apical": "upper", "apex": "upper", "apices": "upper", "suprahilar": "upper"}
_ZONES |= dict.fromkeys(("mid", "middle", "midlung", "midzone"), "mid")
_ZONES |= dict.fromkeys(("lower", "base", "bases", "basal", "basilar", "basally", "infrahilar"), "lower")

_WORDS = re.compile(rf"\b(?:{'|'.join([*_LOBES, *_SIDES, *_ZONES])})\b", re.IGNORECASE)
_NO_SIDE = re.compile(
    r"[\s-]+(?:heart|atri\w+|ventric\w+|cardiac\s+(?:border|contour|margin|chamber)s?|main(?:stem)?\b|anterior\s+descending|handed|greater\s+than\s+left|clinical|setting|hilar\s+"
    r"angle|pulmonary\s+arter\w+)",
    re.IGNORECASE,
)
_NO_ZONE = re.compile(
    r"[\s-]+(?:abdom\w+|limits?|extremit\w+|thoracic|neck|lumbar|cervical|quadrant|pole|back|normal|of\s+the\s+neck|svc|"
    r"superior|esophag\w+|descending|line|and\s+lower\s+extrem\w+)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"[,;:]|\b(?:and|or|nor|with|without|plus|as\s+well\s+as|but|versus|vs|suggest\w*|represent\w*|reflect\w*|likely|"
    r"consistent\s+with|compatible\s+with|concerning\s+for|suspicious\s+for|worrisome\s+for|indicat\w*|secondary\s+to|"
    r"due\s+to|rather\s+than|following|after|removal\s+of|terminat\w*|tip|courses?|ends?)\b",
    re.IGNORECASE,
)
_NO_BOTH = re.compile(
    r"\s+(?:absent|present|stable|new|old|seen|noted|small|large|likely|clear|\w+ed)\b", re.IGNORECASE
)
_COMPARED = re.compile(r"\b(?:compared|relative)\s+(?:with|to)\s+(?:the\s+)?$", re.IGNORECASE)
_FAR = re.compile(r"[;:]|\b(?:but|terminat\w*|tip|courses?|ends?|however|although)\b", re.IGNORECASE)
_JOINT = re.compile(r"^\s*(?:,|and|or|nor|,\s*(?:and|or)|as\s+well\s+as|plus)?\s*$", re.IGNORECASE)
_PREPOSITION = re.compile(
    r"\b(?:in|on|at|within|over|of|throughout|involving|along|overlying|to|into|towards?|near)\b", re.IGNORECASE
)
_NEIGHBOUR = re.compile(
    r"\b(?:adjacent|associated|overlying|underlying|accompanying|compressive|surrounding)\b", re.IGNORECASE
)


@dataclass(slots=True)
class Place:
    """What is known of where a mention is."""

    sides: set[str] = field(default_factory=set)
    zones: set[str] = field(default_factory=set)

    def add(self, other: Place) -> None:
        self.sides |= other.sides
        self.zones |= other.zones

    def __bool__(self) -> bool:
        return bool(self.sides or self.zones)

    @property
    def side(self) -> str | None:
        """The side; "bilateral" for both."""
        if not self.sides:
            return None
        return next(iter(self.sides)) if len(self.sides) == 1 else "bilateral"

    @property
    def zone(self) -> str | None:
        """The zone, None where several are named."""
        return next(iter(self.zones)) if len(self.zones) == 1 else None


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    place: Place


def locate(sentence: str, spans: list[tuple[int, int]], midline: list[bool]) -> list[Place]:
    """Return the place of each mention at characters `spans` (in order, not overlapping but for equal ones).

    A mention that is `midline` keeps words of place only where they are its own.
    """
    places = [Place() for _ in spans]
    if not spans:
        return places
    shared_before: set[int] = set()  # words that open a sentence and hold for all it says
    for word in _words(sentence):
        own = [i for i, (start, end) in enumerate(spans) if start <= word.start and word.end <= end]
        if own:
            for i in own:
                places[i].add(word.place)
            continue
        for i in _bound(sentence, spans, word, shared_before):
            if not midline[i] or _touches(sentence, spans[i], word):
                places[i].add(word.place)
    _share(sentence, spans, midline, places, shared_before)
    return places


def _words(sentence: str) -> list[_Word]:
    words = []
    for match in _WORDS.finditer(sentence):
        text = match[0].lower()
        if text in _LOBES:
            side, zone = _LOBES[text]
            words.append(_Word(match.start(), match.end(), Place({side}, {zone})))
        elif text == "both" and (
            not re.match(r"\s+[a-z]", sentence[match.end() :], re.IGNORECASE) or _NO_BOTH.match(sentence, match.end())
        ):
            continue  # "effusion, atelectasis or both", "both absent"
        elif _COMPARED.search(sentence[: match.start()]):
            continue  # "compared with the left": not where it is
        elif text in _SIDES and not _NO_SIDE.match(sentence, match.end()):
            words.append(_Word(match.start(), match.end(), Place({_SIDES[text]})))
        elif text in _ZONES and not _NO_ZONE.match(sentence, match.end()):
            words.append(_Word(match.start(), match.end(), Place(set(), {_ZONES[text]})))
    return words


def _bound(sentence: str, spans: list[tuple[int, int]], word: _Word, shared: set[int]) -> list[int]:
    """Return the mentions that a word of place speaks of."""
    before = [i for i, (_, end) in enumerate(spans) if end <= word.start]
    after = [i for i, (start, _) in enumerate(spans) if start >= word.end]
    last = [i for i in before if spans[i] == spans[before[-1]]]
    first = [i for i in after if spans[i] == spans[after[0]]]
    left = sentence[spans[last[0]][1] : word.start] if last else ""
    right = sentence[word.end : spans[first[0]][0]] if first else ""
    if not last:
        if first and not _FAR.search(right):
            if _PREPOSITION.search(sentence[: word.start]) and ("," in right or re.search(r"\bthere\b", right)):
                shared.update(first)
            return first
        return []
    if _FAR.search(left):
        return first if first and not _FAR.search(right) else []
    cut_left, cut_right = _SEPARATOR.search(left), _SEPARATOR.search(right)
    follows = bool(_PREPOSITION.search(left)) and not (cut_left and not _PREPOSITION.search(left[: cut_left.start()]))
    if follows and not re.search(r"\b(?:a|an|there|no)\s+(?:\w+\s+)?$|\bwith\b|\bsuggest\w*|\blikely\b", left):
        return last
    if first and not cut_right and (cut_left or not _PREPOSITION.search(left)):
        return first
    if cut_left and first:
        return first
    return last


def _touches(sentence: str, span: tuple[int, int], word: _Word) -> bool:
    """Tell whether a word stands right before or after a mention, with only short words between."""
    gap = sentence[word.end : span[0]] if word.end <= span[0] else sentence[span[1] : word.start]
    return len(gap.split()) <= 2 and not _SEPARATOR.search(gap)


def _share(
    sentence: str, spans: list[tuple[int, int]], midline: list[bool], places: list[Place], shared: set[int]
) -> None:
    """Give a place to mentions that have none from those they are joined to."""
    for i in range(len(spans) - 1, 0, -1):  # "atelectasis and effusion at the left base"
        gap = sentence[spans[i - 1][1] : spans[i][0]]
        trailing = sentence[spans[i][1] :]
        joined = spans[i] == spans[i - 1] or bool(_JOINT.match(gap))
        if joined and not places[i - 1] and not midline[i - 1] and places[i] and _PREPOSITION.match(trailing.lstrip()):
            places[i - 1].add(places[i])
    for i in range(1, len(spans)):
        gap = sentence[spans[i - 1][1] : spans[i][0]]
        if places[i] or midline[i] or not places[i - 1] or _FAR.search(gap):
            continue
        if spans[i] == spans[i - 1] or i - 1 in shared or _NEIGHBOUR.search(gap):
            places[i].add(places[i - 1])
            if i - 1 in shared:
                shared.add(i)
