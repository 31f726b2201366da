"""Concepts of a report: which findings and devices it names, what it says of them, and where.

`Extractor` puts together the vocabulary (`vocabulary.py`), the cues (`assertion.py`) and the places (`location.py`): rules
only, about a millisecond a report. It knows no grammar, so its scores on a hand-written gold set are part of the tests:

    python -m vlp_prep.concepts --score tests/prep/gold_sentences.jsonl
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.config import ConfigError, digest, to_tree
from vlp.registry import did_you_mean
from vlp.types import Assertion, Mention, Report
from vlp.untrusted import parse_json, read_text

from .assertion import Cue, find_cues, judge
from .location import locate
from .report import CLINICAL, find_blocks, split_sentences
from .vocabulary import Match, Vocabulary, default_vocabulary

CLINICAL_KINDS = ("finding", "device")
_NOT = re.compile(r"\b(?:not|no longer|never)\b", re.IGNORECASE)


class Extractor:
    """Finds mentions. `kinds` chooses what sorts of entries are reported.

    With `roll_up`, a set of codes, each mention gets the nearest of its code's ancestors in the set, and mentions
    without one are left out: `roll_up={"device"}` turns pacemakers, tubes and clips into devices and drops the rest.
    """

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,
        kinds: Collection[str] = CLINICAL_KINDS,
        roll_up: Collection[str] | None = None,
    ) -> None:
        self.vocabulary = vocabulary if vocabulary is not None else default_vocabulary()
        self._kinds = frozenset(kinds)
        self._codes: dict[str, str | None] | None = None
        if roll_up is not None:
            known = self.vocabulary.entries
            for code in roll_up:
                if code not in known:
                    raise ConfigError(f"roll_up: no code {code!r} in the vocabulary{did_you_mean(code, known)}")
            self._codes = {
                code: next((one for one in self.vocabulary.ancestors(code) if one in roll_up), None) for code in known
            }

    def fingerprint(self) -> str:
        """Return a hash of the vocabulary."""
        return digest([to_tree(one) for one in self.vocabulary.entries.values()])

    def prepare(self, room: Path) -> None:
        """Do nothing: the vocabulary is in memory."""

    def __call__(self, text: str, sentences: Sequence[tuple[int, int]]) -> tuple[Mention, ...]:
        """Return the mentions in the sentences `[start, end)` of a text, with characters of the text, in order."""
        found: list[Mention] = []
        for start, end in sentences:
            found += self._sentence(text, start, end)
        return tuple(found)

    def extract(self, text: str) -> tuple[Mention, ...]:
        """Return the mentions of a text in what speaks of the image: not in its history, technique or comparison."""
        blocks = [block for block in find_blocks(text) if block.section in CLINICAL or not block.section]
        return self(text, [span for block in blocks for span in split_sentences(text, block.body, block.end)])

    def of_report(self, report: Report) -> tuple[Mention, ...]:
        """Return the mentions of a report whose sentences are known, in the sections that speak of the image."""
        other = [span for name, span in report.sections.items() if name not in CLINICAL]
        return self(report.text, [one for one in report.sentences if not any(a <= one[0] < b for a, b in other)])

    def _sentence(self, text: str, start: int, end: int) -> list[Mention]:
        sentence = re.sub(r"\s", " ", text[start:end])  # one for one: line breaks inside a sentence mean nothing
        matches = self.vocabulary.find(sentence, self._kinds)
        spans = [(one.start, one.end) for one in matches]
        cues = find_cues(sentence)
        places = locate(sentence, spans, [one.entry.midline for one in matches])
        mentions = []
        for match, place in zip(matches, places, strict=True):
            code = match.entry.code if self._codes is None else self._codes[match.entry.code]
            if code is None:
                continue
            mentions.append(
                Mention(
                    text=text[start + match.start : start + match.end],
                    code=code,
                    start=start + match.start,
                    end=start + match.end,
                    assertion=_assertion(sentence, match, cues),
                    side=None if match.denies and place.side == "bilateral" else place.side,  # "both lungs are clear"
                    zone=place.zone,
                )
            )
        return mentions


def _assertion(sentence: str, match: Match, cues: list[Cue]) -> Assertion:
    inside = _NOT.search(sentence, match.start, match.end)
    if match.denies:
        # "heart size is normal" says absent; "heart size is not normal" leaves open in which way it is not
        return "uncertain" if inside or judge(sentence, match.start, match.end, cues) != "present" else "absent"
    return "absent" if inside else judge(sentence, match.start, match.end, cues)


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of mentions: found by us, in the gold, and right (code and place in the text; then also assertion, side)."""

    sentences: int
    found: int
    gold: int
    named: int
    asserted: int
    sided: int
    misses: tuple[str, ...]

    def rates(self) -> dict[str, float]:
        """Return precision and recall of the code alone, with the assertion, and with assertion and side."""
        rates = {}
        for name, right in (
            ("code", self.named),
            ("code + assertion", self.asserted),
            ("code + assertion + side", self.sided),
        ):
            rates[f"{name}: precision"] = right / max(self.found, 1)
            rates[f"{name}: recall"] = right / max(self.gold, 1)
        return rates


def score(extractor: Extractor, path: Path) -> Score:
    """Compare an extractor with a JSONL of sentences and their mentions; raises ConfigError for a file that is none.

    Each line: `{"text": ..., "mentions": [{"code", "text", "start", "end", "assertion", "side"}]}`. A mention is found
    when one of the same code overlaps it; each counts once.
    """
    sentences = found = gold = named = asserted = sided = 0
    misses = []
    try:
        records = [parse_json(line) for line in read_text(path).splitlines() if line.strip()]
        pairs = [(str(one["text"]), list(one["mentions"])) for one in records]
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected lines of {{'text', 'mentions'}}: {error!r}") from None
    for text, wanted in pairs:
        ours = list(extractor(text, [(0, len(text))]))
        sentences, found, gold = sentences + 1, found + len(ours), gold + len(wanted)
        for one in wanted:
            hits = [m for m in ours if m.code == one["code"] and m.start < one["end"] and one["start"] < m.end]
            if not hits:
                misses.append(f"missed  {one['code']} ({one['text']!r}) in: {text}")
                continue
            hit = hits[0]
            ours.remove(hit)
            named += 1
            asserted += hit.assertion == one["assertion"]
            sided += hit.assertion == one["assertion"] and hit.side == one["side"]
            if (hit.assertion, hit.side) != (one["assertion"], one["side"]):
                was = f"{hit.assertion} {hit.side}, gold says {one['assertion']} {one['side']}"
                misses.append(f"differs {one['code']}: {was} in: {text}")
        misses += [f"extra   {one.code} ({one.text!r}) in: {text}" for one in ours]
    return Score(sentences, found, gold, named, asserted, sided, tuple(misses))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print precision and recall on a gold set, or the mentions of a text from standard input."""
    parser = argparse.ArgumentParser(prog="python -m vlp_prep.concepts", description=main.__doc__)
    parser.add_argument("--score", type=Path, metavar="FILE", help="a JSONL of sentences with gold mentions")
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="a vocabulary of your own instead of the package's"
    )
    parser.add_argument("--misses", action="store_true", help="with --score: list every difference")
    options = parser.parse_args(arguments)
    try:
        extractor = Extractor(Vocabulary.read(options.vocabulary) if options.vocabulary else None)
        if options.score is None:
            for mention in extractor.extract(sys.stdin.read()):
                place = " ".join(one for one in (mention.side, mention.zone) if one)
                sys.stdout.write(f"{mention.start}-{mention.end}\t{mention.code}\t{mention.assertion}\t{place}\n")
            return 0
        result = score(extractor, options.score)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for line in result.misses if options.misses else ():
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{result.sentences} sentences, {result.gold} gold mentions, {result.found} found\n")
    for name, rate in result.rates().items():
        sys.stdout.write(f"  {name:36s} {rate:.3f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
