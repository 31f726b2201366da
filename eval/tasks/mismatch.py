"""Report mismatch: whether an image scores higher with its own text than with a wrong one.

Wrong texts: another patient's, left and right exchanged, findings negated or affirmed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from vlp.core.config import config

from ..data.checks import check_reports
from ..data.dataset import Data, Findings
from ..metrics.arithmetic import unit
from .base import Context, Outcome, Plan, Task, families, mean_metric, require_any, words_of
from .controls import partners
from .retrieval.pairs import texts_of

Edit = Literal["report", "side", "negation"]
SIDES = re.compile(r"\b(left|right)\b", re.I)
FLIPS = (
    (re.compile(r"\bThere is no evidence of\b", re.I), "There is evidence of"),
    (re.compile(r"\bThere (is|are) no\b", re.I), r"There \1"),
    (re.compile(r"\bNo evidence of\b", re.I), "Evidence of"),
    (re.compile(r"\b(is|are) not (seen|visible|identified)\b", re.I), r"\1 \2"),
    (re.compile(r"^\s*No\b", re.I), ""),
    (re.compile(r"\bThere (is|are) (?!no\b)(?:an? |some )?", re.I), r"There \1 no "),
    (re.compile(r"\b(is|are) (seen|visible|identified|noted|demonstrated|present)\b", re.I), r"\1 not \2"),
)


@config
class Settings:
    """`text`: report, a section, or `phrases` (those of the boxes, each with its image). `edits`: the kinds of wrong text."""

    text: Literal["report", "findings", "impression", "caption", "phrases"] = "report"
    edits: tuple[Edit, ...] = ("report", "side", "negation")
    size: PositiveInt | None = 500


def other_side(text: str) -> str | None:
    """Return a text with left and right exchanged, None where it names neither."""

    def swap(found: re.Match[str]) -> str:
        word = found[0]
        new = "right" if word.lower() == "left" else "left"
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return SIDES.sub(swap, text) if SIDES.search(text) else None


def negated(text: str) -> str | None:
    """Return a text in which every sentence that can be is turned around (denied or affirmed), None where none can."""
    parts = re.split(r"(?<=[.!?])(\s+)", text)
    changed = False
    for at in range(0, len(parts), 2):
        for pattern, new in FLIPS:
            flipped, count = pattern.subn(new, parts[at], count=1)
            if count:
                parts[at], changed = flipped.strip(), True
                break
    return "".join(parts) if changed else None


@dataclass(kw_only=True)
class Pairs(Plan):
    """Images with their own texts [n], and for each edit the wrong text of each pair, None where it does not apply."""

    own: list[str]
    wrong: dict[Edit, list[str | None]]


@families.register("mismatch")
class Mismatch(Task[Pairs]):
    """The share of pairs whose own text scores above the wrong one (ties count one half)."""

    Config = Settings
    needs = frozenset({"report"})
    compares_samples = True
    titles, meanings = words_of("mismatch")

    def check(self, data: Data) -> Findings:
        return check_reports(data)

    def plan(self, context: Context) -> Pairs:
        pairs: list[tuple[int, str]] = []
        for index in context.usable:
            record = context.data.records[index]
            phrases = dict.fromkeys(box.phrase for box in record.boxes)
            found = phrases if self.settings.text == "phrases" else texts_of(record, self.settings.text)
            pairs += [(index, text) for text in found]
        require_any([index for index, _ in pairs], f"a text ({self.settings.text})", context.data)
        images, own = zip(*pairs[: self.settings.size], strict=True)
        others = (own[other] for other in partners(context.data, images, context.seed))
        made: dict[Edit, list[str | None]] = {
            "report": [other if other != text else None for other, text in zip(others, own, strict=True)],
            "side": [other_side(text) for text in own],
            "negation": [negated(text) for text in own],
        }
        wrong = {edit: made[edit] for edit in self.settings.edits}
        texts = [*own, *(text for values in wrong.values() for text in values if text is not None)]
        return Pairs(images=list(images), texts=texts, own=list(own), wrong=wrong)

    def run(self, context: Context, plan: Pairs) -> Outcome:
        images = unit(context.cache.images(context.data, plan.images))
        own = (images * unit(context.cache.texts(plan.own))).sum(1)
        drawn = context.draw(plan.images)
        outcome = Outcome(plan.images, {}, scoring={"text": self.settings.text, "ties": "half"})
        columns: dict[str, NDArray[np.float64]] = {}
        for edit, texts in plan.wrong.items():
            known = np.array([text is not None for text in texts])
            noticed = np.full(len(images), np.nan)
            if known.any():
                other = unit(context.cache.texts([text for text in texts if text is not None]))
                scores = (images[known] * other).sum(1)
                noticed[known] = (own[known] > scores) + 0.5 * (own[known] == scores)
            name = f"notices_{edit if edit == 'negation' else f'wrong_{edit}'}"
            reason = "the edit applies to no text"
            outcome.metrics[name] = mean_metric(noticed, drawn, chance=0.5, primary=edit == "side", reason=reason)
            columns[name] = noticed
        for at, index in enumerate(plan.images):
            values = {name: None if np.isnan(column[at]) else float(column[at]) for name, column in columns.items()}
            outcome.rows.append(context.row(index) | values)
        return outcome
