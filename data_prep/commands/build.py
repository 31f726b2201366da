"""`vlp-prep build SOURCE`: its options are those of every build and those of the chosen source."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from vlp.core.config import ConfigError, validate

from ..pipeline.killed import KILLED
from ..sources.base import Source, find_source, source_names

GENERAL = "options of every build"


def arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Declare the options; those of the source named first in `argv` with them."""
    parser.usage = "vlp-prep build SOURCE [--raw DIR] --out DIR [options]"
    parser.add_argument("source", help=f"one of {', '.join(source_names())}, or package.module:Class")
    group = parser.add_argument_group(GENERAL)
    group.add_argument("--raw", type=Path, help="the folder as its publisher distributes it")
    group.add_argument("--out", type=Path, required=True, help="where the shards go")
    group.add_argument(
        "--workers", type=int, help="processes, 0: this one alone (default: all cores, 0 for small sets)"
    )
    group.add_argument("--engine", default="processes", help="processes (default), ray, or ray:ADDRESS of a cluster")
    group.add_argument("--resume", action="store_true", help="go on: keep the shards that are finished")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="make the set anew; once whole, it replaces that in --out",
    )
    group.add_argument("--shard-size", type=int, default=512, help="records per shard (default: 512)")
    group.add_argument("--shard-of", default="0/1", metavar="I/N", help="make every N-th shard only, from the I-th")
    group.add_argument("--split", default="0.8,0.1,0.1", help="shares of train,val,test by patient, or none")
    group.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    group.add_argument("--max-rejected", type=float, default=0.01, help="fail past this share (default: 0.01)")
    group.add_argument("--no-text", choices=("reject", "drop", "keep", "test"), help="images without a text")
    group.add_argument("--clean", action="store_true", help="take numbering and de-identification marks out of reports")
    group.add_argument(
        "--concepts",
        default="vocabulary",
        metavar="{vocabulary,none,FILE}",
        help="look for mentions; or take them from a JSONL of scispaCy and UMLS in ConceptCLIP's layout, by text",
    )
    group.add_argument("--vocabulary", type=Path, help="a vocabulary of your own instead of the package's")
    group.add_argument(
        "--max-side", type=int, default=0, help="shrink images to this longer side (default: as they are)"
    )
    group.add_argument("--format", choices=("auto", "jpg", "png"), default="auto", help="of the stored images")
    group.add_argument("--quality", type=int, default=95, help="of stored JPEG (default: 95)")
    group.add_argument("--max-pixels", type=int, default=100_000_000, help="larger images are rejected")
    group.add_argument("--ids", choices=("auto", "hash", "keep"), default="auto", help="keyed hashes of ids, or not")
    group.add_argument("--key-file", type=Path, help="key of the hashes (else the environment variable VLP_PREP_KEY)")
    group.add_argument("--follow-links", action="store_true", help="follow links that lead out of the raw folder")
    if argv and not argv[0].startswith("-"):
        _source_arguments(parser, find_source(argv[0]))


def _source_arguments(parser: argparse.ArgumentParser, cls: type[Source]) -> None:
    taken = {action.dest for action in parser._actions}
    group = parser.add_argument_group(f"options of {cls.name}", (cls.Config.__doc__ or "").strip())
    hints = get_type_hints(cls.Config)
    for item in fields(cls.Config):
        if item.name in taken:
            continue
        flag = f"--{item.name.replace('_', '-')}"
        kind = get_origin(hints[item.name]) or hints[item.name]
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
        elif kind in (tuple, list):
            group.add_argument(flag, nargs="+", default=None)
        elif kind is dict:
            group.add_argument(flag, nargs="+", default=None, metavar="NAME=VALUE", action=_Pairs)
        else:
            group.add_argument(flag, default=None)


class _Pairs(argparse.Action):
    """Collect `name=value` words into a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for word in values:
            name, equals, value = word.partition("=")
            if not equals or not name:
                parser.error(f"{option_string}: expected NAME=VALUE, found {word!r}")
            found[name] = value
        setattr(namespace, self.dest, found)


def run(args: argparse.Namespace) -> int:
    """Build, with a progress bar on stderr, and print what became of every record."""
    from ..images.store import ImageOptions
    from ..pipeline.build import Build, BuildOptions
    from ..pipeline.prepare import TextOptions

    cls = find_source(args.source)
    given = {item.name: getattr(args, item.name) for item in fields(cls.Config)}
    config = validate(cls.Config, {name: value for name, value in given.items() if value is not None}, args.source)
    options = BuildOptions(
        source=args.source,
        out=args.out,
        raw=args.raw,
        source_config=config,
        workers=args.workers,
        engine=args.engine,
        resume=args.resume,
        overwrite=args.overwrite,
        shard_size=args.shard_size,
        shard_of=_shard_of(args.shard_of),
        split=args.split,
        seed=args.seed,
        max_rejected=args.max_rejected,
        ids=args.ids,
        key_file=args.key_file,
        follow_links=args.follow_links,
        image=ImageOptions(
            max_side=args.max_side, format=args.format, quality=args.quality, max_pixels=args.max_pixels
        ),
        text=TextOptions(
            clean=args.clean,
            concepts=args.concepts,
            vocabulary=args.vocabulary,
            no_text=args.no_text or cls.no_text,
        ),
    )
    with Build(options) as build:
        with Bar(args.source) as bar:
            counts = build.run(bar)
        _print_counts(counts, args.out)
        if args.concepts not in ("vocabulary", "none") and not counts["missing"]:
            sys.stdout.write(f"{args.concepts} has mentions for {counts['concepts']} of {counts['written']} samples\n")
        if counts["unread"]:
            sys.stderr.write(
                f"{counts['unread']} of {counts['written']} samples have a report in a language that the vocabulary does not "
                "know (the package's knows English, Spanish and German): no mentions were taken from them\n"
            )
        if args.ids == "auto" and build.key is None and cls.name == "pairs":
            sys.stderr.write(
                "ids are kept as they are in the table: set VLP_PREP_KEY to replace them by keyed hashes\n"
            )
        if counts["without patient"]:
            sys.stderr.write(
                f"{counts['without patient']} of {counts['written']} images state no patient: splits and intervals take each "
                "study, or image, for a patient of its own (--map patient=COLUMN, if one says whose they are)\n"
            )
        if counts["boxes cut"]:
            sys.stderr.write(
                f"{counts['boxes cut']} images have boxes that reach beyond the edge; they are cut there\n"
            )
        build.finish(counts)
        if build.rejected_places.is_file():
            sys.stdout.write(f"{build.rejected_places}: which files were rejected, for you only\n")
    return 0


def _shard_of(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit()):
        raise ConfigError(f"--shard-of {text!r}: expected I/N, for example 0/8")
    return int(part), int(parts)


def _print_counts(counts: Counter[str], out: Path) -> None:
    if counts["missing"]:
        sys.stdout.write(f"{counts['missing']} of {counts['shards']} shards are other jobs' and not there yet\n")
        return
    reasons = ", ".join(
        f"{name.removeprefix('reason ')} {number}"
        for name, number in sorted(counts.items())
        if name.startswith("reason ")
    )
    sys.stdout.write(
        f"read {counts['read']} = written {counts['written']} + rejected {counts['rejected']}"
        f"{f' ({reasons})' if reasons else ''}\n{out}: {counts['shards']} shards\n"
    )
    if counts[f"reason {KILLED}"]:
        sys.stdout.write(
            f"{KILLED}: left out, as a process was killed at each of them, mostly for want of memory; where that was you, "
            "--overwrite tries them again\n"
        )


class Bar:
    """A progress bar with samples/s and time to go; called with the events of `Build.run`."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} samples/s"),
            TextColumn("{task.fields[rejected]} rejected"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(name, total=None, rate=0.0, rejected=0)
        self._rejected = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: str, number: int) -> None:
        task = self._progress.tasks[0]
        self._progress.start()  # not before: a complaint about the options stays one line
        if event == "total":
            self._progress.reset(self._task, total=number)
            return
        if event == "listed":
            self._progress.update(
                self._task, advance=number, rate=(task.completed + number) / max(task.elapsed or 0.0, 1e-3)
            )
            return
        if event == "rejected":
            self._rejected += number
        rate = (task.completed + number) / max(task.elapsed or 0.0, 1e-3)
        self._progress.update(self._task, advance=number, rate=rate, rejected=self._rejected)
