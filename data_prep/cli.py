"""`vlp-prep`: from raw data to verified shards. This file only finds the command; see `commands/`."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import NoReturn, TextIO

from vlp.core.errors import printable, run_command
from vlp.core.registry import did_you_mean

COMMANDS = {
    "build": "raw data of a known layout, or your own pairs, to shards",
    "sources": "list the layouts that build understands",
    "index": "make a manifest for existing webdataset shards",
    "verify": "check hashes and counts, and decode every sample",
    "stats": "text lengths, labels, views, sizes; how much a tokenizer truncates",
    "preview": "a contact sheet of samples with boxes and texts",
    "split": "list a patient-disjoint split, or check one for leaks",
    "dedup": "find near-identical images and texts; thin a set",
    "phantoms": "write synthetic chest CTs as NIfTI and DICOM, with their table",
    "scan": "look for names, dates, numbers that identify a patient",
    "key": "make the secret that ids are hashed with",
    "tokenizer": "train a tokenizer on the texts of a set",
}


class _Printable(io.TextIOBase):
    """Standard output that shows names of others as they are spelled: no escape sequence reaches the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, see `vlp.core.errors`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    is_named = bool(argv) and not argv[0].startswith("-")
    resume = "--resume goes on from the last finished shard" if argv[:1] == ["build"] else ""
    return run_command(f"vlp-prep {argv[0]}" if is_named else "vlp-prep", lambda: run(argv), resume)


def run(argv: list[str]) -> int:
    """Find the command and run it; return its exit code."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="vlp-prep",
        usage="vlp-prep COMMAND ...",
        description=f"Turn raw medical images and reports into verified shards.\n\ncommands:\n{listing}",
        epilog="vlp-prep COMMAND --help says what a command takes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", help=argparse.SUPPRESS)
    if not argv or argv[0].startswith("-"):
        if not argv:
            parser.print_help(sys.stderr)
            return 2
        parser.parse_args(argv)
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        sys.stderr.write(f"vlp-prep: unknown command {name!r}{did_you_mean(name, COMMANDS)}\n")
        return 2
    command = importlib.import_module(f"{__package__}.commands.{name}")
    inner = Parser(prog=f"vlp-prep {name}", description=COMMANDS[name], allow_abbrev=False)
    command.arguments(inner, rest)
    with redirect_stdout(_Printable(sys.stdout)):
        code: int = command.run(inner.parse_intermixed_args(rest))
    return code


if __name__ == "__main__":
    sys.exit(main())
