"""What the extractor has to know of a language: how words are spelled, what denies or doubts, where things are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vlp.core.config import config, read_yaml, validate
from vlp.core.words import words
from vlp.sample import Assertion

CueTable = tuple[tuple[re.Pattern[str], Assertion | None, tuple[bool, ...]], ...]

CUES: dict[str, tuple[Assertion | None, tuple[bool, ...]]] = {
    "pseudo": (None, (True,)),
    "negative_first": ("absent", (True,)),
    "negative_before": ("absent", (True,)),
    "negative_after": ("absent", (False,)),
    "uncertain_before": ("uncertain", (True,)),
    "uncertain_after": ("uncertain", (False,)),
    "either": ("uncertain", (True, False)),
}
"""What the cues under a name in a file of `rules/` say, and where they reach: see `Grammar.cues`."""

NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Grammar:
    """Cues in the order in which they claim characters, and what ends their reach; see `negation.py`.

    `cues`: (pattern, what it says, directions: True forward, False backward); None says nothing and only claims.
    `end` ends a reach; `verb` and `new_item` end it behind a list; `alternative` keeps a list going; `either` stands
    between two findings; `aside` is a clause in commas; `same_subject` a second clause about the first one's finding;
    `own_verb` the verb of a cue behind its finding; `restart` begins a clause; `prior` names an earlier examination,
    and `told` opens a statement about one.
    """

    cues: CueTable
    end: re.Pattern[str]
    verb: re.Pattern[str]
    new_item: re.Pattern[str]
    comma: re.Pattern[str]
    alternative: re.Pattern[str]
    either: re.Pattern[str]
    aside: re.Pattern[str]
    same_subject: re.Pattern[str]
    own_verb: re.Pattern[str]
    restart: re.Pattern[str]
    prior: re.Pattern[str]
    told: re.Pattern[str]
    negation: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class PlaceWords:
    """Words for sides and zones, and what stands between a place and the finding that it belongs to; see `location.py`.

    `lobes` give a side and a zone, with a blank between. `behind`: words of place that stand behind their finding wherever
    nothing separates them.
    """

    lobes: Mapping[str, str]
    sides: Mapping[str, str]
    zones: Mapping[str, str]
    separator: re.Pattern[str]
    both: frozenset[str]
    compared: re.Pattern[str]
    far: re.Pattern[str]
    joint: re.Pattern[str]
    preposition: re.Pattern[str]
    neighbour: re.Pattern[str]
    opening: re.Pattern[str]
    introduced: re.Pattern[str]
    behind: frozenset[str]
    words: re.Pattern[str]
    no_side: re.Pattern[str] = NEVER
    no_zone: re.Pattern[str] = NEVER
    no_both: re.Pattern[str] = NEVER


@dataclass(frozen=True, slots=True)
class Language:
    """A language that the extractor reads. `fold` maps characters one to one before anything is looked for."""

    code: str
    normal: Callable[[str], str]
    small_words: frozenset[str]
    fold: Mapping[int, int]
    grammar: Grammar
    places: PlaceWords


@config
class _Rules:
    """A file of `rules/`: see the comments at the top of `en.yaml`."""

    parts: dict[str, str]
    cues: dict[str, tuple[str, ...]]
    grammar: dict[str, str]
    lobes: dict[str, str]
    sides: dict[str, str]
    zones: dict[str, str]
    places: dict[str, str]
    small_words: str
    both: str = ""
    behind: str = ""


def read_language(code: str, normal: Callable[[str], str], fold: Mapping[int, int] | None = None) -> Language:
    """Read the rules of a language; raises ConfigError with the file and the key."""
    path = Path(__file__).parent / "rules" / f"{code}.yaml"
    rules = validate(_Rules, read_yaml(path), path.name)

    def pattern(text: str) -> re.Pattern[str]:
        whole = re.sub(r"\{([a-z_]+)\}", lambda part: rules.parts[part[1]], text)
        return re.compile(whole.replace("\n", ""), re.IGNORECASE)

    cues = {name: pattern("|".join(f"(?:{text})" for text in texts)) for name, texts in rules.cues.items()}
    lobes, sides, zones = (_meanings(table) for table in (rules.lobes, rules.sides, rules.zones))
    names = sorted({*lobes, *sides, *zones}, key=len, reverse=True)
    return Language(
        code=code,
        normal=normal,
        small_words=frozenset(normal(word) for word in rules.small_words.split()),
        fold=fold or {},
        grammar=Grammar(
            cues=tuple((found, *CUES[name]) for name, found in cues.items()),
            either=cues["either"],
            **{name: pattern(text) for name, text in rules.grammar.items()},
        ),
        places=PlaceWords(
            lobes=lobes,
            sides=sides,
            zones=zones,
            both=words(rules.both),
            behind=words(rules.behind),
            words=pattern(rf"(?<!\w)(?:{'|'.join(names)})(?!\w)"),
            **{name: pattern(text) for name, text in rules.places.items()},
        ),
    )


def _meanings(table: Mapping[str, str]) -> dict[str, str]:
    """Return what each word means, from the words of each meaning."""
    return {word: meaning for meaning, text in table.items() for word in text.split()}
