"""`vlp-prep preview`: look at a set before training on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from vlp.core.config import ConfigError
from vlp.core.output import write_whole

from ..images.contact_sheet import render_html, render_png
from ..readers.samples import Reading, max_rejected_option


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="a folder of shards with a manifest")
    parser.add_argument("--n", type=int, default=16, help="how many samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    parser.add_argument("--split", help="one split only")
    parser.add_argument("--boxes", action="store_true", help="only samples with boxes or masks")
    max_rejected_option(parser)
    sheet = Path("preview.html")
    parser.add_argument("--out", type=Path, default=sheet, help="a .html or .png (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the contact sheet."""
    if args.out.suffix not in (".html", ".png"):
        raise ConfigError(f"--out {args.out}: expected a name that ends in .html or .png")
    reading = Reading(args.folder, args.max_rejected, args.split)
    size = len(reading.shards)
    order = map(int, np.random.default_rng(args.seed).permutation(size))
    wanted = (sample for _, sample in reading.samples(order) if not args.boxes or sample.boxes or sample.masks)
    samples = list(islice(wanted, args.n))
    if not samples:
        reading.finish()
        raise ConfigError(f"{args.folder}: no samples with boxes or masks")
    shown = f"{len(samples)} of {size}"
    is_png = args.out.suffix == ".png"
    write_whole(args.out, render_png(samples) if is_png else render_html(samples, f"{args.folder}: {shown}"))
    sys.stdout.write(f"{args.out}: {shown} samples\n")
    reading.finish()
    return 0
