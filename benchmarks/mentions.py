"""Precision and recall of the extractor of mentions on sentences with gold mentions, such as those of the tests.

python -m benchmarks.mentions tests/data_prep/reports/gold_sentences.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.untrusted import parse_json, read_text
from vlp_prep.reports.concepts import Extractor
from vlp_prep.reports.vocabulary import Vocabulary


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
        pairs = [(str(line["text"]), list(line["mentions"])) for line in records]
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected lines of {{'text', 'mentions'}}: {error!r}") from None
    for text, wanted in pairs:
        ours = list(extractor(text, [(0, len(text))]))
        sentences, found, gold = sentences + 1, found + len(ours), gold + len(wanted)
        for expected in wanted:
            hits = [
                m
                for m in ours
                if m.code == expected["code"] and m.start < expected["end"] and expected["start"] < m.end
            ]
            if not hits:
                misses.append(f"missed  {expected['code']} ({expected['text']!r}) in: {text}")
                continue
            hit = hits[0]
            ours.remove(hit)
            named += 1
            asserted += hit.assertion == expected["assertion"]
            sided += hit.assertion == expected["assertion"] and hit.side == expected["side"]
            if (hit.assertion, hit.side) != (expected["assertion"], expected["side"]):
                was = f"{hit.assertion} {hit.side}, gold says {expected['assertion']} {expected['side']}"
                misses.append(f"differs {expected['code']}: {was} in: {text}")
        misses += [f"extra   {mention.code} ({mention.text!r}) in: {text}" for mention in ours]
    return Score(sentences, found, gold, named, asserted, sided, tuple(misses))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print precision and recall on a gold set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mentions", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSONL of sentences with gold mentions")
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="a vocabulary of your own instead of the package's"
    )
    parser.add_argument("--misses", action="store_true", help="list every difference")
    options = parser.parse_args(arguments)
    try:
        extractor = Extractor(Vocabulary.read(options.vocabulary) if options.vocabulary else None)
        result = score(extractor, options.file)
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
