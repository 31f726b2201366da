"""`vlp-prep split`: split a set by patient, or check that no patient and no near-identical image is on two sides."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.output import check_apart, write_whole
from vlp.core.untrusted import read_regular, read_text
from vlp.data.tables.read import rows
from vlp.modalities.image.errors import ImageError
from vlp.sample import Sample

from ..pipeline.data_card import resplit_card
from ..pipeline.shard_writer import ShardWriter
from ..readers.samples import Reading, max_rejected_option
from ..splits.near_duplicates import IMAGE_DISTANCE, group, image_hash, load_faiss, near_hashes
from ..splits.split import SHARES, choose, leaks, parse_shares


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "folders", type=Path, nargs="+", help="folders of shards; several are checked against each other"
    )
    parser.add_argument("--check", action="store_true", help="only look for leaks; exit code 1 when there is one")
    parser.add_argument("--images", action="store_true", help="with --check: near-identical images too")
    words = "bits of 256 that near-identical images may differ in (default: %(default)s)"
    parser.add_argument("--distance", type=int, default=IMAGE_DISTANCE, help=words)
    words = "shares of train,val,test, or name=share,... (default: %(default)s)"
    parser.add_argument("--split", default=SHARES, help=words)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=Path, help="groups of `vlp-prep dedup`: kept on one side, with their patients")
    parser.add_argument("--out", type=Path, help="where the split set goes")
    max_rejected_option(parser)


def run(args: argparse.Namespace) -> int:
    """Check or split."""
    if args.check:
        return _check(args)
    if len(args.folders) != 1 or args.out is None:
        raise ConfigError("give one folder and --out to split it, or --check")
    return _split(args)


def _check(args: argparse.Namespace) -> int:
    if args.images:
        load_faiss()
    patients: list[tuple[str, str | None, str]] = []
    images: list[tuple[str, str, Any]] = []
    readings = [Reading(folder, args.max_rejected) for folder in args.folders]
    for folder, reading in zip(args.folders, readings, strict=True):
        for index, sample in reading.samples(pixels=args.images):
            side = sample.split or "all"
            side = f"{folder}:{side}" if len(args.folders) > 1 else side
            patients.append((side, sample.patient, sample.key))
            if args.images:
                assert isinstance(sample.image, bytes)
                try:
                    images.append((side, sample.key, image_hash(sample.image, sample.volume is not None)))
                except ImageError as error:
                    reading.reject(index, error)
    found = leaks(patients) + (_image_leaks(images, args.distance) if args.images else [])
    for leak in found:
        sys.stdout.write(f"{leak}\n")
    unknown = sum(patient is None for _, patient, _ in patients)
    sides = ", ".join(f"{name} {count}" for name, count in sorted(Counter(side for side, _, _ in patients).items()))
    sys.stdout.write(f"{len(found)} leaks between {sides}" + (f" ({unknown} without a patient)\n" if unknown else "\n"))
    for reading in readings:
        reading.finish()
    return 1 if found else 0


def _image_leaks(images: list[tuple[str, str, Any]], distance: int) -> list[str]:
    if not images:
        return []
    sides, keys, hashes = zip(*images, strict=True)
    groups = group(near_hashes(np.stack(hashes), distance), len(images))
    found = ((sides[at], str(number), keys[at]) for number, members in enumerate(groups) for at in members)
    return leaks(found, "near-identical image")


def _split(args: argparse.Namespace) -> int:
    check_apart(args.out, args.folders[0])
    shares = parse_shares(args.split)
    reading = Reading(args.folders[0], args.max_rejected)
    together = _together(args.groups, reading) if args.groups else {}

    def divided() -> Iterator[tuple[int, Sample]]:
        for index, sample in reading.samples():
            owner = _owner(sample)
            yield index, replace(sample, split=choose(together.get(owner, owner), shares, args.seed))

    with ShardWriter(args.out, source=reading.shards.manifest.shards[0].source) as writer:
        reading.copy(divided(), writer.write)
        _keep_card(args, writer.counts)  # before it is a set
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in sorted(writer.counts.items())) + f": {args.out}\n")
    reading.finish()
    return 0


def _keep_card(args: argparse.Namespace, counts: Counter[str]) -> None:
    """Write the data card of the set beside the new shards, with the new split behind it, and its list of rejects."""
    source, out = args.folders[0], args.out
    if (source / "README.md").is_file():
        card = resplit_card(read_text(source / "README.md"), counts, args.split, args.seed)
        write_whole(out / "README.md", card)
    if (source / "rejected.jsonl").is_file():
        write_whole(out / "rejected.jsonl", read_regular(source / "rejected.jsonl"))


def _owner(sample: Sample) -> str:
    return sample.patient or sample.study or sample.key


def _together(groups: Path, reading: Reading) -> dict[str, str]:
    """Return for each patient in a group of duplicates the name that all patients connected to them share."""
    owner = {sample.key: _owner(sample) for _, sample in reading.samples(pixels=False)}
    names = sorted(set(owner.values()))
    place = {name: at for at, name in enumerate(names)}
    pairs: list[tuple[int, int]] = []
    for line in rows(groups, ("keys",)):
        members = [place[owner[key]] for key in line["keys"] if key in owner]
        pairs += [(members[0], other) for other in members[1:]]
    linked = np.array(pairs, np.int64).reshape(-1, 2)
    return {names[at]: names[members[0]] for members in group([linked], len(names)) for at in members}
