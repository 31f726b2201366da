"""`vlp-export`: write a trained model in a format, check it in a fresh process, add a model card, push it when asked.

A folder holds one format: two of them want the same file names.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vlp.core import output
from vlp.core.config import ConfigError
from vlp.core.errors import run_command
from vlp.core.output import LOCK, check_apart, hold, partial_of

from . import exporters

MADE_BY = "vlp-export"


def parser() -> argparse.ArgumentParser:
    """Return the command line of `vlp-export`."""
    formats = "\n".join(f"  {name:<14}{exporters.get(name).summary}" for name in exporters)
    made = argparse.ArgumentParser(
        prog="vlp-export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export a trained model, checked in a fresh process, with a model card; push it to the Hub if asked.",
        epilog=f"formats:\n{formats}\n  module:Class  a format of your own (a subclass of vlp.export.Exporter)",
    )
    made.add_argument("run", type=Path, help="a run folder, its `last`, a checkpoint, or an export of format vlp")
    made.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write; must not exist yet")
    made.add_argument("--format", default="vlp", metavar="NAME", help="one of the formats below (default: vlp)")
    made.add_argument(
        "--approximate",
        action="store_true",
        help="accept another way of resizing images; how much it changes embeddings is measured and put in the card",
    )
    made.add_argument("--overwrite", action="store_true", help="replace DIR where it is an export, and nothing else")
    made.add_argument(
        "--results", type=Path, nargs="*", default=[], metavar="FILE", help="results.json of vlp-eval for the card"
    )
    made.add_argument("--licence", default="apache-2.0", help="licence of the weights, as the Hub spells it")
    made.add_argument("--name", help="the model's name in the card, by default the run's")
    made.add_argument("--push", metavar="REPO", help="push to this Hub repository (owner/name) after the checks")
    made.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="import this module where the model names it"
    )
    made.add_argument("--private", action="store_true", help="make the repository private where it is new")
    return made


def export(options: argparse.Namespace) -> Path:
    """Write, check and, when asked, push an export; returns its folder. Nothing stays behind when a step fails."""
    from vlp.hub import from_pretrained, locate
    from vlp.models.lora import merge_lora

    from . import model_card, push, verify

    target: Path = options.to
    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.push):
        raise ConfigError(f"--push takes a repository as owner/name, found {options.push!r}")
    exporter = exporters.get(options.format)(options.format)
    source = locate(options.run)
    check_apart(target, source, *options.results)
    work = partial_of(Path(os.path.abspath(target)))
    with hold(work, MADE_BY) as mark:  # of two exports to one place, the first one has it
        clear(work)
        require_free(target, options.overwrite, [source, *options.results])
        loaded = from_pretrained(source, options.trust)
        loaded.model = merge_lora(loaded.model)
        try:
            exporter.require_kind(loaded)
            notes = exporter.write(loaded, work, options.approximate)
            say(f"wrote {exporter.name} format; loading it in a fresh process")
            notes += verify.check(loaded, work, exporter, options.approximate)
            card = model_card.render(
                loaded, source, exporter, notes, name=options.name, licence=options.licence,
                results=options.results, repository=options.push or target.name,
            )  # fmt: skip
            (work / "README.md").write_text(card, encoding="utf-8")
            mark["files"] = files(work)
            replace(target, work, [source, *options.results])
            for name, content in exporter.path_dependent_files(target, None).items():
                (target / name).write_bytes(content)
        finally:
            clear(work)
    for note in notes:
        say(note)
    if options.push:
        pushed = exporter.path_dependent_files(target, options.push)
        say(f"loading it as {options.push} in a fresh process, laid out as a download")
        verify.check_repository(loaded, target, exporter, options.approximate, options.push, pushed)
        say(push.push(target, options.push, options.private, pushed))
    return target


def files(folder: Path) -> list[str]:
    """Return the files of an export without the mark."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if name != LOCK)


def require_free(target: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    """Raise ConfigError unless `target` is free, or an export with nothing else in it that may be overwritten."""
    check_apart(target, *sources)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"{target} exists: choose another --to, or give --overwrite")
    facts = output.facts(target)
    if facts.get("made_by") != MADE_BY:
        raise ConfigError(f"{target} was not made by {MADE_BY}, so --overwrite leaves it: choose another --to")
    others = sorted(set(files(target)) - set(facts.get("files", ())))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ConfigError(f"{target} holds {others[0]}{more}, not written by {MADE_BY}: move it elsewhere first")


def replace(target: Path, work: Path, sources: Sequence[Path]) -> None:
    """Move `work` to `target`; what was there is removed when the new folder is in its place."""
    old = partial_of(target.with_name(f"{target.name}.old"))
    output.remove(old, MADE_BY)
    if target.exists():
        check_apart(target, *sources)
        target.rename(old)
    try:
        work.replace(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    output.remove(old, MADE_BY)


def clear(work: Path) -> None:
    """Remove what an interrupted export has written."""
    for path in sorted(work.iterdir()) if work.exists() else ():
        if path.name != LOCK:
            output.remove(path, MADE_BY)


def say(line: str) -> None:
    """Print a line for the user."""
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, see `vlp.core.errors`."""

    def run() -> int:
        say(f"exported to {export(parser().parse_args(arguments))}")
        return 0

    return run_command(MADE_BY, run)


if __name__ == "__main__":
    sys.exit(main())
