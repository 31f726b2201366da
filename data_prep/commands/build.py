"""`vlp-prep build SOURCE`: its options are those of every build and those of the chosen source."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..pipeline.build import Build
from ..pipeline.killed import KILLED
from ..pipeline.options import add_flags, read_options
from ..sources.base import sources

EPILOG = """Any option can be set by its full name too: image.max_side=512, text.concepts=none,
source.KEY=VALUE (an option of the source); such words stand right after SOURCE."""

WARNINGS = {
    "unread": "{0} of {1} samples have a report in a language that the vocabulary does not know (the package's knows "
    "English, Spanish and German): no mentions were taken from them",
    "without patient": "{0} of {1} images state no patient: splits and intervals take each study, or image, for a patient of "
    "its own (--map patient=COLUMN, if one says whose they are)",
    "faces": "{0} of {1} volumes seem to be of a head: a face can be rendered from them unless it was taken out; do so before "
    "they leave the hospital",
    "boxes cut": "{0} images have boxes that reach beyond the edge; they are cut there",
}
"""What is said of the samples that a build counts under these names: how many there are, of how many written ones."""


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options; those of the source named first in `argv` with them."""
    parser.usage, parser.epilog = "vlp-prep build SOURCE [a.b=c ...] [--raw DIR] --out DIR [options]", EPILOG
    parser.add_argument("source_", metavar="source", help=f"one of {', '.join(sources)}, or package.module:Class")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="an option by its full name, and its value")
    add_flags(parser, argv[0] if argv and not argv[0].startswith("-") else None)


def run(args: argparse.Namespace) -> int:
    """Build, with a progress bar on stderr, and print what became of every record."""
    flags = {name: value for name, value in vars(args).items() if name not in ("source_", "overrides")}
    options = read_options(args.source_, flags, args.overrides)
    with Build(options) as build:
        with progress_bar(build.name) as tell:
            counts = build.run(tell)
        _print_counts(counts, options.out)
        if options.text.concepts not in ("vocabulary", "none") and not counts["missing"]:
            found = f"{counts['concepts']} of {counts['written']}"
            sys.stdout.write(f"{options.text.concepts} has mentions for {found} samples\n")
        if options.ids == "auto" and build.key is None and build.source.name in ("pairs", "nifti"):
            sys.stderr.write(
                "ids are kept as they are in the table: set VLP_PREP_KEY to replace them by keyed hashes\n"
            )
        for name, words in WARNINGS.items():
            if counts[name]:
                sys.stderr.write(f"{words.format(counts[name], counts['written'])}\n")
        build.finish(counts)
        if build.rejected_places.is_file():
            sys.stdout.write(f"{build.rejected_places}: which files were rejected, for you only\n")
    return 0


def _print_counts(counts: Counter[str], out: Path) -> None:
    if counts["missing"]:
        sys.stdout.write(f"{counts['missing']} of {counts['shards']} shards are other jobs' and not there yet\n")
        return
    named = sorted(name for name in counts if name.startswith("reason "))
    reasons = ", ".join(f"{name.removeprefix('reason ')} {counts[name]}" for name in named)
    sys.stdout.write(
        f"read {counts['read']} = written {counts['written']} + rejected {counts['rejected']}"
        f"{f' ({reasons})' if reasons else ''}\n{out}: {counts['shards']} shards\n"
    )
    if counts["volumes"]:
        sys.stdout.write(f"{counts['volumes']} volumes, {counts['studies']} studies, {counts['patients']} patients\n")
    if counts[f"reason {KILLED}"]:
        sys.stdout.write(
            f"{KILLED}: left out, as a process was killed at each of them, mostly for want of memory; where that was you, "
            "--overwrite tries them again\n"
        )


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[str, int], None]]:
    """Show samples/s and time to go on stderr; yields what is called with the events of `Build.run`."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} samples/s"),
        TextColumn("{task.fields[rejected]} rejected"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar = progress.add_task(name, total=None, rate=0.0, rejected=0)

    def tell(event: str, number: int) -> None:
        progress.start()  # not before: an error in the options stays one line
        if event == "total":
            progress.reset(bar, total=number)
            return
        task = progress.tasks[0]
        rejected = task.fields["rejected"] + (number if event == "rejected" else 0)
        rate = (task.completed + number) / max(task.elapsed or 0.0, 1e-3)
        progress.update(bar, advance=number, rate=rate, rejected=rejected)

    try:
        yield tell
    finally:
        if progress.live.is_started:
            progress.stop()
