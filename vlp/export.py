"""`vlp-export`: a run as a folder that others load, checked in a fresh process, with a model card; pushed when asked.

Formats: `vlp` (everything, for `vlp.from_pretrained`), `open_clip`, `transformers`, `onnx`, and the towers alone as
transformers models (`image`, `text`). One folder holds one format: two of them want the same file names.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .config import ConfigError

FORMATS = {
    "vlp": "everything, also the heads for patches and words and what objectives learnt; loads with vlp.from_pretrained",
    "open_clip": "loads with open_clip.create_model_and_transforms('local-dir:...' or 'hf-hub:...')",
    "transformers": "loads with AutoModel, AutoProcessor and the zero-shot-image-classification pipeline",
    "onnx": "both towers with their heads, dynamic batch and text length",
    "image": "the image tower alone, as a transformers model",
    "text": "the text tower alone, as a transformers model",
}


class CannotExpress(ConfigError):
    """A format that has no words for what the model does; the message says what, and which format can."""


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
    made.add_argument("--overwrite", action="store_true", help="replace DIR where it exists")
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

    from . import export_card, export_check
    from .hub import from_pretrained, locate
    from .models.adapters import merged

    target: Path = options.to
    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.push):
        raise ConfigError(f"--push takes a repository as owner/name, found {options.push!r}")
    if target.exists() and not options.overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists: choose another --to, or give --overwrite")
    source = locate(options.run)
    loaded = from_pretrained(source, options.trust)
    loaded.model = merged(loaded.model)
    work = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        notes: list[str] = import_module(f"vlp.export_{options.format}").write(loaded, work, options.approximate)
        say(f"wrote {options.format} format; loading it in a fresh process")
        notes += export_check.check(loaded, work, options.format, options.approximate)
        card = export_card.render(loaded, source, options, notes)
        (work / "README.md").write_text(card, encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
        for name, content in _settled(options.format, target, None).items():
            (target / name).write_bytes(content)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for note in notes:
        say(note)
    if options.push:
        from . import export_push

        there = _settled(options.format, target, options.push)
        say(f"loading it as {options.push} in a fresh process, as a download will lie")
        export_check.check_repository(loaded, target, options.format, options.approximate, options.push, there)
        say(export_push.push(target, options.push, options.private, there))
    return target


def _settled(kind: str, folder: Path, repository: str | None) -> dict[str, bytes]:
    """Return the files that name the place where the model lies: only open_clip's format has such."""
    if kind != "open_clip":
        return {}
    from .export_open_clip import settle

    return settle(folder, repository)


def say(line: str) -> None:
    """Print a line for the user."""
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; one line on stderr and code 2 for what the user can put right."""
    options = parser().parse_args(arguments)
    try:
        target = export(options)
    except (ValueError, OSError, LookupError) as error:
        print(f"vlp-export: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    say(f"exported to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
