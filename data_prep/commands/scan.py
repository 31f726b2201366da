"""`vlp-prep scan`: counts of what may identify a patient: in the texts, in the files of the images, burned into them."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vlp.core.output import write_whole
from vlp.modalities.image.decode import besides_pixels
from vlp.modalities.text.identifiers import scan

from ..images.planes import planes_of
from ..images.volumes import besides_voxels
from ..privacy.burned_in_text import has_text
from ..readers.samples import Reading, max_rejected_option


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="a folder of shards with a manifest")
    parser.add_argument("--images", action="store_true", help="look for burned-in text too")
    parser.add_argument("--out", type=Path, help="write keys and kinds (never the text) as JSON lines")
    parser.add_argument("--limit", type=int, default=0, help="look at the first N samples only (default: all)")
    max_rejected_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print counts by kind; exit code 1 when anything was found, so that a pipeline can stop there."""
    reading = Reading(args.folder, args.max_rejected)
    size = len(reading.shards)
    size = min(size, args.limit) if args.limit else size
    totals: Counter[str] = Counter()
    found: dict[str, set[str]] = {}
    for _, sample in reading.samples(range(size), pixels=False):
        reports = [] if sample.report is None else [sample.report.text]
        texts = [*reports, *sample.captions, *(box.phrase for box in sample.boxes)]
        kinds = [finding.kind for text in texts for finding in scan(text)]
        totals.update(kinds)
        if kinds:
            found[sample.key] = set(kinds)
    for _, sample in reading.samples(range(size)):
        assert isinstance(sample.image, bytes)
        besides = besides_pixels if sample.volume is None else besides_voxels
        marks = {f"{name} (file)" for data in (sample.image, *sample.masks.values()) for name in besides(data)}
        if args.images and has_text(sample.image if sample.volume is None else planes_of(sample)[0].pixels):
            marks.add("text in image")
        totals.update(marks)
        if marks:
            found.setdefault(sample.key, set()).update(marks)
    for kind, number in sorted(totals.items()):
        sys.stdout.write(f"{kind:16} {number}\n")
    sys.stdout.write(
        f"{len(found)} of {size} samples hold something that may identify a patient\n"
        "(regular expressions for English, Spanish and German: bare names in running text are not found)\n"
    )
    if args.out:
        lines = (json.dumps({"key": key, "kinds": sorted(kinds)}) for key, kinds in sorted(found.items()))
        write_whole(args.out, "".join(f"{line}\n" for line in lines))
    reading.finish()
    return 1 if totals else 0
