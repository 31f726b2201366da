"""`vlp-prep index`: a manifest for webdataset shards that other tools made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vlp.core.config import ConfigError
from vlp.core.output import hold
from vlp.data.shards.foreign.index import Choices
from vlp.data.shards.verify import index_folder


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="a folder of tar shards")
    parser.add_argument("--source", default="", help="name of the data set, where its samples do not say")
    parser.add_argument("--version", default="", help="version of the data set")
    parser.add_argument(
        "--image", metavar="NAME", help="the member that is the image, where a sample has several (frontal.jpg)"
    )
    parser.add_argument("--text", metavar="NAME", help="the member, or the field of the json, that is the text")
    parser.add_argument(
        "--split", metavar="NAME", help="the split of all shards, whatever their paths say; none: no split"
    )
    parser.add_argument("--follow-links", action="store_true", help="follow links that lead out of the folder")


def run(args: argparse.Namespace) -> int:
    """Index the folder, saying what became of each shard."""
    if not args.folder.is_dir():
        raise ConfigError(f"{args.folder} is not a folder")
    choices = Choices(args.image, args.text, args.split)
    with hold(args.folder, "vlp-prep index", name=".vlp-index.lock"):
        manifest = index_folder(args.folder, args.source, args.version, print, args.follow_links, choices)
    splits = ", ".join(manifest.splits) or "none"
    sys.stdout.write(f"{len(manifest)} samples in {len(manifest.shards)} shards, splits: {splits}\n")
    return 0
