"""`vlp-prep dedup`: groups of near-identical images or reports, and a set thinned by a documented rule."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlp.config import ConfigError

THIN_RULE = "of each group, the members whose blake2b(seed, key) is smallest are kept"


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="a folder of shards with a manifest")
    parser.add_argument("--by", choices=("image", "text", "embedding"), default="image")
    parser.add_argument("--distance", type=int, help="bits that may differ (default: 20 of 256, texts 3 of 64)")
    parser.add_argument("--model", type=Path, help="checkpoint for --by embedding")
    parser.add_argument("--similarity", type=float, default=0.98, help="least cosine for --by embedding")
    parser.add_argument("--out", type=Path, help="write the groups as JSON lines")
    parser.add_argument("--thin", type=Path, metavar="DIR", help="write the set there without what is too many")
    parser.add_argument("--keep", type=int, default=1, help="members of a group that stay (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice who stays")


def run(args: argparse.Namespace) -> int:
    """Print how many groups there are; write groups and the thinned set where asked."""
    from vlp.data.manifest import Manifest, ShardSet

    from ..dedup import group, thin

    shards = ShardSet(Manifest.read(args.folder))
    rows = list(range(len(shards)))
    pairs = _pairs(args, shards, rows)
    groups = [[rows[at] for at in members] for members in group(pairs, len(rows))]
    keys = [shards.key(index) for index in range(len(shards))]
    extra = sum(len(members) - 1 for members in groups)
    sys.stdout.write(f"{len(groups)} groups of near-identical {args.by}s hold {extra} beyond their first\n")
    if args.out:
        lines = [
            json.dumps({"group": number, "by": args.by, "keys": [keys[one] for one in members]})
            for number, members in enumerate(groups)
        ]
        args.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if args.thin:
        dropped = thin(groups, keys, args.keep, args.seed)
        _write(args, shards, dropped)
    return 0


def _pairs(args: argparse.Namespace, shards: Any, rows: list[int]) -> Iterator[Any]:
    """Return blocks of near pairs as positions in `rows`, which is cut to the samples that have what is compared."""
    import numpy as np

    from .. import dedup

    if args.by == "text":
        reports = [(index, sample.report.text) for index in rows if (sample := shards.record(index)).report is not None]
        rows[:] = [index for index, _ in reports]
        known = {text: dedup.text_hash(text) for text in {text for _, text in reports}}
        hashes = [known[text] for _, text in reports]
    elif args.by == "image":
        hashes = [dedup.image_hash(shards.sample(index, masks=False).image) for index in rows]
    else:
        if args.model is None:
            raise ConfigError("--by embedding needs --model, a run folder or an export")
        images = (shards.sample(index, masks=False).image for index in rows)
        try:
            return dedup.near_embeddings(dedup.embed(args.model, images), args.similarity)
        except ImportError as error:
            raise ConfigError(str(error)) from None
    distance = args.distance
    if distance is None:
        distance = dedup.TEXT_DISTANCE if args.by == "text" else dedup.IMAGE_DISTANCE
    return dedup.near_hashes(np.stack(hashes), distance) if hashes else iter(())


def _write(args: argparse.Namespace, shards: Any, dropped: set[int]) -> None:
    from ..writer import ShardWriter

    with ShardWriter(args.thin, source=shards.manifest.shards[0].source) as writer:
        for index in range(len(shards)):
            if index not in dropped:
                writer.write(shards.sample(index))
    rule = {"rule": THIN_RULE, "seed": args.seed, "keep": args.keep, "by": args.by}
    lines = [json.dumps(rule), *(json.dumps({"key": shards.key(index)}) for index in sorted(dropped))]
    (args.thin / "dropped.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    kept = len(shards) - len(dropped)
    sys.stdout.write(f"read {len(shards)} = written {kept} + dropped {len(dropped)}: {args.thin}\n")
