"""`vlp-prep sources`: what build understands."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence

from ..sources.base import sources


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare nothing: the command takes no options."""


def run(args: argparse.Namespace) -> int:
    """Print the name and the first line of each source."""
    width = max(map(len, sources))
    for name in sources:
        about = inspect.getdoc(inspect.getmodule(sources.get(name))) or ""
        sys.stdout.write(f"{name:{width}}  {about.partition(chr(10))[0]}\n")
    sys.stdout.write("vlp-prep build NAME --help lists a source's own options\n")
    return 0
