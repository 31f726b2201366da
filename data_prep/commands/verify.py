"""`vlp-prep verify`: every byte against the manifest, every image and mask decoded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlp.data.shards.manifest import Manifest
from vlp.data.shards.verify import verify


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", help="a folder of shards with a manifest, or its URL")
    parser.add_argument("--no-decode", action="store_true", help="check hashes and counts only")
    parser.add_argument("--limit", type=int, default=100, help="stop after this many problems (default: 100)")


def run(args: argparse.Namespace) -> int:
    """Print the problems, one per line; exit code 1 when there are any."""
    manifest = Manifest.read(args.folder)
    problems = verify(args.folder, decode=not args.no_decode, limit=args.limit)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    checked = "hashes and counts" if args.no_decode else "hashes, counts and every image"
    found = f"{len(problems)} problems" if problems else "sound"
    sys.stdout.write(f"{found}: {len(manifest)} samples in {len(manifest.shards)} shards ({checked})\n")
    return 1 if problems else 0
