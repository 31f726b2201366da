"""The data card: README.md beside the shards, written from the counts of the build. No dates, no paths, no texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .stats import GROUPED_BY, DatasetStats, quantiles

LONGEST = 100


def plain(text: object) -> str:
    """Return a text of the data as Markdown that shows it as it is: no HTML, link, image, emphasis or new line in it."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", shown)
    return re.sub(r"(?i)(?<=[a-z])(:)(?=//)|(?<=www)(\.)|(@)", r"\\\g<0>", shown)


def code(text: object) -> str:
    """Return a value as code within a table's cell."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    shown = shown if len(shown) <= 4 * LONGEST else f"{shown[: 4 * LONGEST]}..."
    return "`" + shown.replace("`", "'").replace("|", "\\|") + "`"


def render_card(about: Mapping[str, Any], stats: DatasetStats, rejected: Counter[str], read: int) -> str:
    """Return the card as Markdown. `about` holds source, version, licence, homepage and the options of the build."""
    written = stats.samples
    lines = [
        f"# {plain(about['source'])}",
        "",
        f"Webdataset shards made by {code('vlp-prep build ' + about['source'])} from {about['homepage'] or 'local data'}"
        f"{', version ' + about['version'] if about['version'] else ''}.",
        "",
        f"**Licence:** {plain(about['licence'])}",
        "",
        "## Counts",
        "",
        f"read {read} = written {written} + rejected {sum(rejected.values())}",
        "",
        *_table("split", stats.counts.get("split", Counter()), written),
        f"Patients: {len(stats.people['patient'])}. Studies: {len(stats.people['study'])}.",
        "",
        *_without_patient(stats),
    ]
    if rejected:
        lines += ["## Rejected", "", "Each one with its reason in `rejected.jsonl`.", ""]
        lines += _table("reason", rejected, read)
    lines += ["## Images", ""]
    for column in ("modality", "view", "licence", "sex", "age", "site", "with", "steps"):
        if column in stats.counts:
            lines += _table(column, stats.counts[column], written)
    lines += ["## Texts", ""]
    lines += _table("texts per image", stats.counts.get("texts per image", Counter()), written)
    length = quantiles(stats.words)
    if length:
        lines += ["| words per text | |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in length.items()]
        lines += [""]
    if "concepts" in stats.counts:
        lines += _table("concept mentions", stats.counts["concepts"], sum(stats.counts["concepts"].values()))
    if stats.labels:
        lines += ["## Labels", "", "| label | present | absent | uncertain |", "|---|---|---|---|"]
        lines += [
            f"| {plain(name)} | {seen['present']} | {seen['absent']} | {seen['uncertain']} |"
            for name, seen in sorted(stats.labels.items())
        ]
        lines += [""]
    lines += ["## How it was made", "", "| option | value |", "|---|---|"]
    lines += [f"| {plain(name)} | {code(value)} |" for name, value in about["options"].items()]
    return "\n".join(lines) + "\n"


SPLIT_ANEW = "## Split anew"


def resplit_card(card: str, counts: Counter[str], shares: str, seed: int) -> str:
    """Return a set's card after `vlp-prep split`: as it was, and the new split in place of what an earlier one said."""
    before = card.partition(f"\n{SPLIT_ANEW}\n")[0].rstrip("\n")
    made = code(f"vlp-prep split --split {shares} --seed {seed}")
    lines = ["", SPLIT_ANEW, "", f"By {made}; this table holds in place of the one under Counts.", ""]
    return "\n".join([before, *lines, *_table("split", counts, sum(counts.values()))]) + "\n"


def _without_patient(stats: DatasetStats) -> list[str]:
    grouped = stats.counts.get(GROUPED_BY, Counter())
    without = stats.samples - grouped["patient"]
    if not without:
        return []
    by = " or ".join(name for name in ("study", "image") if grouped[name])
    return [
        f"**{without} of {stats.samples} images state no patient.** For them splits are by {by}, and so are the intervals "
        "of scores: images of one patient may lie on both sides of a split, and intervals may be too narrow.",
        "",
    ]


def _table(title: str, counter: Counter[str], total: int, most: int = 20) -> list[str]:
    lines = [f"| {title} | n | share |", "|---|---|---|"]
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {plain(name)} | {count} | {count / max(total, 1):.1%} |" for name, count in ordered[:most]]
    if len(ordered) > most:
        rest = sum(count for _, count in ordered[most:])
        lines.append(f"| {len(ordered) - most} more | {rest} | {rest / max(total, 1):.1%} |")
    return [*lines, ""]
