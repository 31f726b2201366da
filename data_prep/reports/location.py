"""Where a sentence puts a finding: side (left, right, bilateral) and zone (upper, mid, lower) for each mention.

Words of place are bound to the mention that they stand next to: "left basal atelectasis and a small right effusion" has
two. A place that follows several mentions, or is put in front of the sentence, is shared: "atelectasis and effusion at
the left base".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .languages.base import PlaceWords
from .languages.english import ENGLISH


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


def place_mentions(
    sentence: str, spans: list[tuple[int, int]], midline: list[bool], language: PlaceWords = ENGLISH.places
) -> list[Place]:
    """Return the place of each mention at characters `spans` (in order, not overlapping but for equal ones).

    A mention that is `midline` keeps words of place only where they are its own.
    """
    places = [Place() for _ in spans]
    if not spans:
        return places
    shared_before: set[int] = set()  # words that open a sentence and hold for all it says
    for word in _words(sentence, language):
        own = [i for i, (start, end) in enumerate(spans) if start <= word.start and word.end <= end]
        if own:
            for i in own:
                places[i].add(word.place)
            continue
        for i in _bound(sentence, spans, word, shared_before, language):
            if not midline[i] or _touches(sentence, spans[i], word, language):
                places[i].add(word.place)
    _share(sentence, spans, midline, places, shared_before, language)
    return places


def _words(sentence: str, language: PlaceWords) -> list[_Word]:
    words = []
    for match in language.words.finditer(sentence):
        text = match[0].lower()
        if text in language.lobes:
            side, zone = language.lobes[text].split()
            words.append(_Word(match.start(), match.end(), Place({side}, {zone})))
        elif text in language.both and (
            not re.match(r"\s+[a-z]", sentence[match.end() :], re.IGNORECASE)
            or language.no_both.match(sentence, match.end())
        ):
            continue  # "effusion, atelectasis or both", "both absent"
        elif language.compared.search(sentence[max(0, match.start() - 60) : match.start()]):
            continue  # "compared with the left": not where it is
        elif text in language.sides and not language.no_side.match(sentence, match.end()):
            words.append(_Word(match.start(), match.end(), Place({language.sides[text]})))
        elif text in language.zones and not language.no_zone.match(sentence, match.end()):
            words.append(_Word(match.start(), match.end(), Place(set(), {language.zones[text]})))
    return words


def _bound(
    sentence: str, spans: list[tuple[int, int]], word: _Word, shared: set[int], language: PlaceWords
) -> list[int]:
    """Return the mentions that a word of place speaks of."""
    before = [i for i, (_, end) in enumerate(spans) if end <= word.start]
    after = [i for i, (start, _) in enumerate(spans) if start >= word.end]
    last = [i for i in before if spans[i] == spans[before[-1]]]
    first = [i for i in after if spans[i] == spans[after[0]]]
    left = sentence[spans[last[0]][1] : word.start] if last else ""
    right = sentence[word.end : spans[first[0]][0]] if first else ""
    if not last:
        if first and not language.far.search(right):
            if language.preposition.search(sentence[: word.start]) and ("," in right or language.opening.search(right)):
                shared.update(first)
            return first
        return []
    if language.far.search(left):
        return first if first and not language.far.search(right) else []
    cut_left, cut_right = language.separator.search(left), language.separator.search(right)
    follows = bool(language.preposition.search(left)) and not (
        cut_left and not language.preposition.search(left[: cut_left.start()])
    )
    if not cut_left and sentence[word.start : word.end].lower() in language.behind:
        return last
    if follows and not language.introduced.search(left):
        return last
    if first and not cut_right and (cut_left or not language.preposition.search(left)):
        return first
    if cut_left and first:
        return first
    return last


def _touches(sentence: str, span: tuple[int, int], word: _Word, language: PlaceWords) -> bool:
    """Tell whether a word stands right before or after a mention, with only short words between."""
    gap = sentence[word.end : span[0]] if word.end <= span[0] else sentence[span[1] : word.start]
    return len(gap.split()) <= 2 and not language.separator.search(gap)


def _share(
    sentence: str,
    spans: list[tuple[int, int]],
    midline: list[bool],
    places: list[Place],
    shared: set[int],
    language: PlaceWords,
) -> None:
    """Give a place to mentions that have none from those they are joined to."""
    for i in range(len(spans) - 1, 0, -1):  # "atelectasis and effusion at the left base"
        gap = sentence[spans[i - 1][1] : spans[i][0]]
        trailing = sentence[spans[i][1] :]
        joined = spans[i] == spans[i - 1] or bool(language.joint.match(gap))
        if (
            joined
            and not places[i - 1]
            and not midline[i - 1]
            and places[i]
            and language.preposition.match(trailing.lstrip())
        ):
            places[i - 1].add(places[i])
    for i in range(1, len(spans)):
        gap = sentence[spans[i - 1][1] : spans[i][0]]
        if places[i] or midline[i] or not places[i - 1] or language.far.search(gap):
            continue
        if spans[i] == spans[i - 1] or i - 1 in shared or language.neighbour.search(gap):
            places[i].add(places[i - 1])
            if i - 1 in shared:
                shared.add(i)
