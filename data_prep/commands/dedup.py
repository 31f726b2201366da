"""`vlp-prep dedup`: groups of near-identical images or reports, and a set thinned by a documented rule."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.output import check_apart, write_whole

from ..pipeline.shard_writer import ShardWriter
from ..readers.samples import Reading, max_rejected_option
from ..splits import near_duplicates

THIN_RULE = "of each group, the members whose blake2b(seed, key) is smallest are kept"


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="a folder of shards with a manifest")
    parser.add_argument("--by", choices=("image", "text", "embedding"), default="image")
    image, text = near_duplicates.IMAGE_DISTANCE, near_duplicates.TEXT_DISTANCE
    words = f"bits that may differ (default: {image} of 256, texts {text} of 64)"
    parser.add_argument("--distance", type=int, help=words)
    parser.add_argument("--model", type=Path, help="checkpoint for --by embedding")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="import this module where the model names it"
    )
    parser.add_argument("--similarity", type=float, default=0.98, help="least cosine for --by embedding")
    parser.add_argument("--out", type=Path, help="write the groups as JSON lines")
    parser.add_argument(
        "--thin", type=Path, metavar="DIR", help="write the set there without the surplus members of its groups"
    )
    parser.add_argument("--keep", type=int, default=1, help="members to keep of each group (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of members to keep")
    max_rejected_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print how many groups there are; write groups and the thinned set where asked."""
    near_duplicates.load_faiss()  # an error now, not after the whole set was read
    if args.thin:
        check_apart(args.thin, args.folder)
    reading = Reading(args.folder, args.max_rejected)
    rows, pairs = _compare(args, reading)
    groups = [[rows[at] for at in members] for members in near_duplicates.group(pairs, len(rows))]
    keys = [reading.shards.key(index) for index in range(len(reading.shards))]
    extra = sum(len(members) - 1 for members in groups)
    sys.stdout.write(f"{len(groups)} groups of near-identical {args.by}s hold {extra} beyond their first\n")
    if args.out:
        lines = [
            json.dumps({"group": number, "by": args.by, "keys": [keys[at] for at in members]})
            for number, members in enumerate(groups)
        ]
        write_whole(args.out, "".join(f"{line}\n" for line in lines))
    if args.thin:
        _write(args, reading, keys, near_duplicates.thin(groups, keys, args.keep, args.seed))
    reading.finish()
    return 0


def _compare(args: argparse.Namespace, reading: Reading) -> tuple[list[int], list[Any]]:
    """Return the samples that have what is compared, and blocks of near pairs as positions in that list."""
    if args.by == "embedding":
        if args.model is None:
            raise ConfigError("--by embedding needs --model, a run folder or an export")
        rows: list[int] = []
        embeddings = near_duplicates.embed(args.model, _images(reading, rows), trust=args.trust)
        return rows, list(near_duplicates.near_embeddings(embeddings, args.similarity))
    if args.by == "text":
        usual = near_duplicates.TEXT_DISTANCE
        samples = reading.samples(pixels=False)
        texts = {index: sample.report.text for index, sample in samples if sample.report is not None}
        known = {text: near_duplicates.text_hash(text) for text in set(texts.values())}
        hashes = {index: known[text] for index, text in texts.items()}
    else:
        usual = near_duplicates.IMAGE_DISTANCE
        hashes = {index: found for index, _, found in reading.images(near_duplicates.image_hash)}
    if not hashes:
        return [], []
    distance = usual if args.distance is None else args.distance
    return list(hashes), list(near_duplicates.near_hashes(np.stack(list(hashes.values())), distance))


def _images(reading: Reading, rows: list[int]) -> Iterator[bytes]:
    """Yield the images that decode, and note in `rows` whose they are."""
    for index, sample, _ in reading.images(near_duplicates.greys_of):
        rows.append(index)
        yield cast(bytes, sample.image)


def _write(args: argparse.Namespace, reading: Reading, keys: Sequence[str], dropped: set[int]) -> None:
    kept = (index for index in range(len(keys)) if index not in dropped)
    with ShardWriter(args.thin, source=reading.shards.manifest.shards[0].source) as writer:
        reading.copy(reading.samples(kept), writer.write)
        rule = {"rule": THIN_RULE, "seed": args.seed, "keep": args.keep, "by": args.by}
        lines = [json.dumps(line) for line in (rule, *({"key": keys[index]} for index in sorted(dropped)))]
        write_whole(args.thin / "dropped.jsonl", "".join(f"{line}\n" for line in lines))  # before it is a set
    rejected = f" + rejected {len(reading.rejected)}" if reading.rejected else ""
    sys.stdout.write(
        f"read {len(keys)} = written {writer.counts.total()} + dropped {len(dropped)}{rejected}: {args.thin}\n"
    )
