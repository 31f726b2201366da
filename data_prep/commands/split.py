"""`vlp-prep split`: split a set by patient, or check that no patient and no near-identical image is on two sides."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.config import ConfigError


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "folders", type=Path, nargs="+", help="folders of shards; several are checked against each other"
    )
    parser.add_argument("--check", action="store_true", help="only look for leaks; exit code 1 when there is one")
    parser.add_argument("--images", action="store_true", help="with --check: near-identical images too")
    parser.add_argument("--distance", type=int, default=20, help="bits of 256 that near-identical images may differ in")
    parser.add_argument("--split", default="0.8,0.1,0.1", help="shares of train,val,test, or name=share,...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=Path, help="groups of `vlp-prep dedup`: kept on one side, with their patients")
    parser.add_argument("--out", type=Path, help="where the split set goes")


def run(args: argparse.Namespace) -> int:
    """Check or split."""
    if args.check:
        return _check(args)
    if len(args.folders) != 1 or args.out is None:
        raise ConfigError("give one folder and --out to split it, or --check")
    return _split(args)


def _check(args: argparse.Namespace) -> int:
    from vlp.data.manifest import Manifest, ShardSet

    from ..splits import leaks

    people: list[tuple[str, str | None, str]] = []
    images: list[tuple[str, str, Any]] = []
    for folder in args.folders:
        shards = ShardSet(Manifest.read(folder))
        for index in range(len(shards)):
            sample = shards.sample(index, masks=False) if args.images else shards.record(index)
            side = sample.split or "all"
            side = f"{folder}:{side}" if len(args.folders) > 1 else side
            people.append((side, sample.patient, sample.key))
            if args.images:
                from ..dedup import image_hash

                assert isinstance(sample.image, bytes)
                images.append((side, sample.key, image_hash(sample.image)))
    found = leaks(people) + (_image_leaks(images, args.distance) if args.images else [])
    for leak in found:
        sys.stdout.write(f"{leak}\n")
    unknown = sum(patient is None for _, patient, _ in people)
    sides = ", ".join(f"{name} {count}" for name, count in sorted(Counter(side for side, _, _ in people).items()))
    sys.stdout.write(f"{len(found)} leaks between {sides}" + (f" ({unknown} without a patient)\n" if unknown else "\n"))
    return 1 if found else 0


def _image_leaks(images: list[tuple[str, str, Any]], distance: int) -> list[Any]:
    import numpy as np

    from ..dedup import group, near_hashes
    from ..splits import leaks

    groups = group(near_hashes(np.stack([one[2] for one in images]), distance), len(images))
    rows = [(images[at][0], str(number), images[at][1]) for number, members in enumerate(groups) for at in members]
    return list(leaks(rows, "near-identical image"))


def _split(args: argparse.Namespace) -> int:
    from vlp.data.manifest import Manifest, ShardSet

    from ..splits import choose, parse_shares
    from ..writer import ShardWriter

    shares = parse_shares(args.split)
    shards = ShardSet(Manifest.read(args.folders[0]))
    together = _together(args.groups, shards) if args.groups else {}
    counts: Counter[str] = Counter()
    with ShardWriter(args.out, source=shards.manifest.shards[0].source) as writer:
        for index in range(len(shards)):
            sample = shards.sample(index)
            who = sample.patient or sample.study or sample.key
            split = choose(together.get(who, who), shares, args.seed)
            writer.write(replace(sample, split=split))
            counts[split or "all"] += 1
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in sorted(counts.items())) + f": {args.out}\n")
    return 0


def _together(groups: Path, shards: Any) -> dict[str, str]:
    """Return for each patient in a group of duplicates the name that all patients connected to them share."""
    import numpy as np

    from ..dedup import group
    from ..tables import rows

    owner = {}
    for index in range(len(shards)):
        sample = shards.record(index)
        owner[sample.key] = sample.patient or sample.study or sample.key
    names = sorted(set(owner.values()))
    place = {name: at for at, name in enumerate(names)}
    pairs: list[tuple[int, int]] = []
    for line in rows(groups, ("keys",)):
        members = [place[owner[key]] for key in line["keys"] if key in owner]
        pairs += [(members[0], other) for other in members[1:]]
    linked = np.array(pairs, np.int64).reshape(-1, 2)
    return {names[at]: names[members[0]] for members in group([linked], len(names)) for at in members}
