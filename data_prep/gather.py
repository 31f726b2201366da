"""From the counts of finished shards to what lies beside them: manifest, list of rejects, data card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.config import ConfigError
from vlp.output import whole

from .card import render_card
from .prepare import CUT
from .rejected import sort_private
from .stats import GROUPED_BY, Tally


def gather(planned: list[str], finished: Path, out: Path, private: Path, about: Mapping[str, Any]) -> Counter[str]:
    """Write manifest, rejected.jsonl and card from what is finished; return read, written, rejected, missing.

    `planned` are the names of all shards of the set, in order; `finished` holds a file of counts for each. With
    shards of other jobs missing nothing is written: the job that finishes last does it.
    """
    missing = [name for name in planned if not (finished / f"{name}.json").is_file()]
    if missing:
        return Counter(missing=len(missing), shards=len(planned))
    tally, reasons, counted = Tally(), Counter[str](), 0
    lines: list[dict[str, Any]] = []
    with whole(out / "manifest.jsonl") as manifest:
        for name in planned:
            done = json.loads((finished / f"{name}.json").read_text())
            if done["entry"] is not None:
                manifest.write(done["entry"] + "\n")
            tally.merge(Tally.from_json(done["tally"]))
            lines += done["rejected"]
    sort_private(private)
    with whole(out / "rejected.jsonl") as file:
        for line in sorted(lines, key=lambda one: int(one["index"])):
            reasons[line["reason"]] += 1
            counted += line.pop("counted")
            file.write(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n")
    read = tally.samples + len(lines)
    with whole(out / "README.md") as file:
        file.write(render_card(about, tally, reasons, read))
    counts = Counter(read=read, written=tally.samples, rejected=len(lines), counted=counted, shards=len(planned))
    counts["concepts"] = tally.counts.get("with", Counter())["concepts"]
    counts["without patient"] = tally.samples - tally.counts.get(GROUPED_BY, Counter())["patient"]
    counts["boxes cut"] = tally.counts.get("steps", Counter())[CUT]
    counts.update({f"reason {name}": number for name, number in reasons.items()})
    return counts


def check_rejected(counts: Counter[str], max_rejected: float, out: Path) -> None:
    """Raise ConfigError when more than `max_rejected` of what was read was bad."""
    if counts["read"] and counts["counted"] > max_rejected * counts["read"]:
        raise ConfigError(
            f"{counts['counted']} of {counts['read']} rejected, more than --max-rejected {max_rejected:g}: "
            f"see {out / 'rejected.jsonl'}"
        )
