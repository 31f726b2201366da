"""The data card: README.md beside the shards, written from the counts of the build. No dates, no paths, no texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..images.volumes import FACE
from .stats import GROUPED_BY, DatasetStats, quantiles

LONGEST = 100
TEMPLATE = Path(__file__).with_name("data_card.md.jinja")


def plain(text: object) -> str:
    """Return a text of the data as Markdown that shows it as it is: no HTML, link, image, emphasis or new line in it."""
    shown = _line(text, LONGEST).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", shown)
    return re.sub(r"(?i)(?<=[a-z])(:)(?=//)|(?<=www)(\.)|(@)", r"\\\g<0>", shown)


def code(text: object) -> str:
    """Return a value as code within a table's cell."""
    return "`" + _line(text, 4 * LONGEST).replace("`", "'").replace("|", "\\|") + "`"


def _line(text: object, longest: int) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def render_card(about: Mapping[str, Any], stats: DatasetStats, rejected: Counter[str], read: int) -> str:
    """Return the card as Markdown. `about` holds source, version, licence, homepage and the options of the build."""
    from jinja2 import Environment, StrictUndefined

    templates = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    templates.filters |= {"plain": plain, "code": code}
    return templates.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        about=about,
        stats=stats,
        count=lambda column: stats.counts.get(column, Counter[str]()),
        rejected=rejected,
        read=read,
        table=lambda *counted: "\n".join(_table(*counted)),
        grouped_by=GROUPED_BY,
        length=quantiles(stats.words),
        volumes={name: quantiles(seen) for name, seen in stats.volumes.items()},
        shares=stats.shares(),
        face=FACE,
    )


SPLIT_ANEW = "## Split anew"


def resplit_card(card: str, counts: Counter[str], shares: str, seed: int) -> str:
    """Return a set's card after `vlp-prep split`: as it was, and the new split in place of what an earlier one said."""
    before = card.partition(f"\n{SPLIT_ANEW}\n")[0].rstrip("\n")
    made = code(f"vlp-prep split --split {shares} --seed {seed}")
    lines = ["", SPLIT_ANEW, "", f"By {made}; this table holds in place of the one under Counts.", ""]
    return "\n".join([before, *lines, *_table("split", counts, sum(counts.values()))]) + "\n"


def _table(title: str, counter: Counter[str], total: int, most: int = 20) -> list[str]:
    lines = [f"| {title} | n | share |", "|---|---|---|"]
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {plain(name)} | {count} | {count / max(total, 1):.1%} |" for name, count in ordered[:most]]
    if len(ordered) > most:
        rest = sum(count for _, count in ordered[most:])
        lines.append(f"| {len(ordered) - most} more | {rest} | {rest / max(total, 1):.1%} |")
    return [*lines, ""]
