"""`vlp-prep sources`: what build understands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..sources.base import source_names


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare nothing: the command takes no options."""


def run(args: argparse.Namespace) -> int:
    """Print the name and the first line of each source."""
    names = source_names()
    width = max(map(len, names), default=0)
    for name, text in names.items():
        sys.stdout.write(f"{name:{width}}  {text}\n")
    sys.stdout.write("vlp-prep build NAME --help lists a source's own options\n")
    return 0
