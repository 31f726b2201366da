"""`vlp-prep scan`: counts of what may identify a patient: in the texts, in the files of the images, burned into them."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..readers.samples import Reading, max_rejected_option


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="a folder of shards with a manifest")
    parser.add_argument("--images", action="store_true", help="look for burned-in text too")
    parser.add_argument("--out", type=Path, help="write keys and kinds (never the text) as JSON lines")
    parser.add_argument("--limit", type=int, default=0, help="look at the first so many samples only")
    max_rejected_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print counts by kind; exit code 1 when anything was found, so that a pipeline can stop there."""
    from vlp.core.output import write_whole
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet
    from vlp.modalities.image.decode import besides_pixels

    from ..privacy.burned_in_text import has_text
    from ..privacy.phi_scan import count, texts_of

    shards = ShardSet(Manifest.read(args.folder))
    size = min(len(shards), args.limit) if args.limit else len(shards)

    reading = Reading(shards, args.max_rejected)

    def texts() -> Iterator[tuple[str, str]]:
        for _, sample in reading.samples(range(size), pixels=False):
            for text in texts_of(sample):
                yield sample.key, text

    totals, hits = count(texts())
    found: dict[str, set[str]] = {}
    for key, kinds in hits:
        found.setdefault(key, set()).update(kinds)
    for _, sample in reading.samples(range(size)):
        assert isinstance(sample.image, bytes)
        marks = {f"{name} (file)" for data in (sample.image, *sample.masks.values()) for name in besides_pixels(data)}
        if args.images and has_text(sample.image):
            marks.add("text in image")
        totals.update(marks)
        if marks:
            found.setdefault(sample.key, set()).update(marks)
    _print(totals, len(found), size)
    if args.out:
        lines = (json.dumps({"key": key, "kinds": sorted(kinds)}) for key, kinds in sorted(found.items()))
        write_whole(args.out, "".join(f"{line}\n" for line in lines))
    reading.finish()
    return 1 if totals else 0


def _print(totals: Counter[str], samples: int, size: int) -> None:
    for kind, number in sorted(totals.items()):
        sys.stdout.write(f"{kind:16} {number}\n")
    sys.stdout.write(f"{samples} of {size} samples hold something that may identify a patient\n")
    sys.stdout.write(
        "(regular expressions for English, Spanish and German: bare names in running text are not found)\n"
    )
