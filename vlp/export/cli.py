"""`vlp-export`: a run as a folder that others load, checked in a fresh process, with a model card; pushed when asked.

Formats: `vlp` (everything, for `vlp.from_pretrained`), `open_clip`, `transformers`, `onnx`, and the towers alone as
transformers models (`image`, `text`). One folder holds one format: two of them want the same file names.
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
from vlp.core.errors import report
from vlp.core.output import LOCK, check_apart, hold, partial_of

from .base import FORMATS

MADE_BY = "vlp-export"


def parser() -> argparse.ArgumentParser:
    """Return the command line of `vlp-export`."""
    made = argparse.ArgumentParser(prog="vlp-export", description=__doc__.partition("\n\n")[0] if __doc__ else "")
    made.add_argument("run", type=Path, help="a run folder, its `last`, a checkpoint, or an export in our own format")
    made.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write; must not exist yet")
    made.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="vlp",
        help="; ".join(f"{name}: {about}" for name, about in FORMATS.items()),
    )
    made.add_argument(
        "--approximate",
        action="store_true",
        help="allow a format whose image resizing differs from ours; how much it changes is measured and put in the card",
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
    from importlib import import_module

    from vlp.hub import from_pretrained, locate
    from vlp.models.lora import merge_lora

    from . import model_card, verify

    target: Path = options.to
    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.push):
        raise ConfigError(f"--push takes a repository as owner/name, found {options.push!r}")
    source = locate(options.run)
    check_apart(target, source, *options.results)
    work = partial_of(Path(os.path.abspath(target)))
    with hold(work, MADE_BY) as mark:  # of two exports to one place, the first one has it
        clear(work)
        require_free(target, options.overwrite, [source, *options.results])
        loaded = from_pretrained(source, options.trust)
        loaded.model = merge_lora(loaded.model)
        try:
            notes: list[str] = import_module(f"vlp.export_{options.format}").write(loaded, work, options.approximate)
            say(f"wrote {options.format} format; loading it in a fresh process")
            notes += verify.check(loaded, work, options.format, options.approximate)
            card = model_card.render(loaded, source, options, notes)
            (work / "README.md").write_text(card, encoding="utf-8")
            mark["files"] = files(work)
            put(work, target, [source, *options.results])
            for name, content in _settled(options.format, target, None).items():
                (target / name).write_bytes(content)
        finally:
            clear(work)
    for note in notes:
        say(note)
    if options.push:
        from . import push

        there = _settled(options.format, target, options.push)
        say(f"loading it as {options.push} in a fresh process, as a download will lie")
        verify.check_repository(loaded, target, options.format, options.approximate, options.push, there)
        say(push.push(target, options.push, options.private, there))
    return target


def files(folder: Path) -> list[str]:
    """Return the files of an export, its mark apart."""
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
        raise ConfigError(f"{target} is no export of {MADE_BY}, so --overwrite leaves it: choose another --to")
    others = sorted(set(files(target)) - set(facts.get("files", ())))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ConfigError(f"{target} holds {others[0]}{more}, not written by {MADE_BY}: move it elsewhere first")


def put(work: Path, target: Path, sources: Sequence[Path]) -> None:
    """Have `work` take the place of `target`, which goes when the new one is there."""
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
    """Remove what an export that was cut off has written."""
    for path in sorted(work.iterdir()) if work.exists() else ():
        if path.name != LOCK:
            output.remove(path, MADE_BY)


def _settled(kind: str, folder: Path, repository: str | None) -> dict[str, bytes]:
    """Return the files that name the place where the model lies: only open_clip's format has such."""
    if kind != "open_clip":
        return {}
    from .open_clip import settle

    return settle(folder, repository)


def say(line: str) -> None:
    """Print a line for the user."""
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, see `vlp.core.errors`."""
    options = parser().parse_args(arguments)
    try:
        target = export(options)
    except (Exception, KeyboardInterrupt) as error:
        return report(MADE_BY, error, (ValueError, LookupError))
    say(f"exported to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
