"""`vlp-prep stats`: what a set is made of, and how much of its texts a tokenizer would cut."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.core.config import compose, validate
from vlp.modalities.image.decode import image_size
from vlp.modalities.text.spec import TextSpec
from vlp.sample import Sample

from ..pipeline.stats import DatasetStats, quantiles
from ..readers.samples import Reading, max_rejected_option

LIMITS = (77, 128, 256, 512)
LONGEST = 100_000


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="a folder of shards with a manifest")
    parser.add_argument("--split", help="one split only")
    parser.add_argument(
        "--tokenizer", type=Path, help="a recipe (its `tokenizer:`), or a folder with a saved tokenizer"
    )
    max_rejected_option(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    stats, texts = DatasetStats(), []
    sizes: Counter[int] = Counter()
    reading = Reading(args.folder, args.max_rejected, args.split)
    for sample, side in _sizes(reading):
        stats.add(sample)
        if side is not None:
            sizes[side] += 1
        if args.tokenizer:
            texts.append(sample.report.text if sample.report else "\n".join(sample.captions))
    record: dict[str, Any] = stats.to_json()
    record["people"] = {kind: len(known) for kind, known in stats.people.items()}
    record["words"] = quantiles(stats.words)
    record["longer side"] = quantiles(sizes)
    if stats.volumes:
        record["volumes"] = {name: quantiles(seen) for name, seen in stats.volumes.items()}
        record["HU"] = stats.shares()
    if args.tokenizer:
        record["tokens"], record["truncated"] = _tokens(args.tokenizer, [text for text in texts if text])
    sys.stdout.write(json.dumps(record, indent=1) + "\n" if args.json else _text(record))
    reading.finish()
    return 0


def _sizes(reading: Reading) -> Iterator[tuple[Sample, int | None]]:
    """Yield samples with the longer side of their image; a volume is not read for this, its record says all."""
    first = next(reading.samples(range(min(1, len(reading.shards))), pixels=False), None)
    if first is None or first[1].volume is None:
        for _, sample, side in reading.images(_side):
            yield sample, side
        return
    for index, record in reading.samples(pixels=False, masks=True):  # masks are counted
        if record.volume is None:
            yield from ((sample, side) for _, sample, side in reading.images(_side, [index]))
        else:
            yield record, None


def _side(data: bytes, is_volume: bool) -> int | None:
    return None if is_volume else max(image_size(data))


def _tokens(where: Path, texts: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return quantiles of the number of tokens, and the share of texts longer than each usual limit."""
    from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer

    if where.is_dir():
        tokenizer = type(load_tokenizer(where)).read(where, LONGEST, "truncate")
    else:
        spec = validate(TextSpec, compose(where).get("tokenizer") or {}, f"{where}: tokenizer")
        tokenizer = build_tokenizer(replace(spec, length=LONGEST, overflow="truncate"), texts)
    lengths: Counter[int] = Counter()
    for at in range(0, len(texts), 256):
        lengths.update(int(count) for count in tokenizer(texts[at : at + 256]).tokens.mask.sum(1))
    longer = {limit: sum(count for length, count in lengths.items() if length > limit) for limit in LIMITS}
    return quantiles(lengths), {str(limit): count / max(len(texts), 1) for limit, count in longer.items()}


def _text(record: dict[str, Any]) -> str:
    people = record["people"]
    lines = [f"samples {record['samples']}, patients {people['patient']}, studies {people['study']}"]
    for column, counter in record["counts"].items():
        shown = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        rest = f", {len(shown) - 8} more" if len(shown) > 8 else ""
        lines.append(f"{column}: " + ", ".join(f"{name} {count}" for name, count in shown[:8]) + rest)
    lines += [
        f"{name}: " + ", ".join(f"{at} {value:.4g}" for at, value in record[name].items())
        for name in ("words", "tokens", "longer side")
        if record.get(name)
    ]
    for name, seen in record.get("volumes", {}).items():
        lines.append(f"{name}: " + ", ".join(f"{at} {value:.4g}" for at, value in seen.items()))
    if record.get("HU"):
        lines.append("HU: " + ", ".join(f"{name} {share:.2%}" for name, share in record["HU"].items()))
    if "truncated" in record:
        shares = (f"{at} tokens {share:.1%}" for at, share in record["truncated"].items())
        lines.append(f"longer than: {', '.join(shares)}")
    for name, seen in record["labels"].items():
        values = ", ".join(f"{value} {count} ({count / record['samples']:.1%})" for value, count in seen.items())
        lines.append(f"label {name}: {values}")
    return "\n".join(lines) + "\n"
