"""`vlp-prep key`: make the file of the secret that ids are hashed with, readable by its owner alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..privacy.identifiers import make_key_file


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, help="a new file, for `vlp-prep build --key-file`")


def run(args: argparse.Namespace) -> int:
    """Write the key; an existing file is left as it is, and an error."""
    make_key_file(args.file)
    sys.stdout.write(f"{args.file}: keep it where the raw data is kept; builds of one key can be joined\n")
    return 0
