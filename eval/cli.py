"""`vlp-eval`: list, show and check tasks; run a suite; cache embeddings and score them again; compare; report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlp.core.errors import run_command

Verb = argparse.ArgumentParser


def parser() -> argparse.ArgumentParser:
    """Return the command line; nothing heavy is imported for it."""
    top = argparse.ArgumentParser(prog="vlp-eval", description="Score a vision-language checkpoint zero-shot.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("ls", help="list tasks and suites with the data they need, and whether it is present")
    verb.add_argument("--data", type=Path, help="folder of the data")
    verb.add_argument("--suite", help="only this suite (a name or a YAML file)")

    verb = verbs.add_parser("show", help="print a task's prompts, scoring rule and published numbers")
    verb.add_argument("task", help="a task's id, as `ls` prints it")
    verb.add_argument("--suite", help="the suite it is in (a name or a YAML file)")
    verb.add_argument("--data", type=Path, help="also print the hash of the split")

    verb = verbs.add_parser("check", help="check a task's data: counts, prevalence, hashes, overlap with training data")
    verb.add_argument("task", help="a task's id")
    verb.add_argument("--suite", help="the suite it is in (a name or a YAML file)")
    verb.add_argument("--data", type=Path, required=True, help="folder of the data")
    verb.add_argument("--train", type=Path, help="shards that a model was trained on")
    verb.add_argument("--train-split", default="train", help="split of those shards (default: train)")
    verb.add_argument("--decode", action="store_true", help="decode every image")

    verb = verbs.add_parser("run", help="score a model on a suite")
    _model(verb)
    _scored(verb)
    verb.add_argument("--cache", type=Path, help="folder to cache embeddings in and reuse them from")

    verb = verbs.add_parser("embed", help="cache the embeddings that a suite needs, for `score`")
    _model(verb)
    _suite(verb, "folder for the embeddings")

    verb = verbs.add_parser("score", help="score cached embeddings without the model")
    verb.add_argument("--embeddings", type=Path, required=True, help="folder that `embed` wrote")
    _scored(verb)

    verb = verbs.add_parser("compare", help="print paired differences between runs with confidence intervals")
    verb.add_argument("runs", type=Path, nargs="+", help="run folders; each is compared with the first")
    verb.add_argument("--resamples", type=_count(0), default=2000, help="bootstrap resamples (default: 2000)")
    verb.add_argument("--json", type=Path, help="also write the table to this file")
    _trust(verb)

    verb = verbs.add_parser("report", help="write a run's report page, or print it as a table")
    verb.add_argument("out", type=Path, help="a run folder")
    _trust(verb)
    kind = verb.add_mutually_exclusive_group()
    kind.add_argument("--html", action="store_true", help="one self-contained page (the default)")
    kind.add_argument("--md", action="store_true", help="a markdown table")
    kind.add_argument("--csv", action="store_true", help="every metric as CSV")
    return top


def _count(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` up."""

    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return number


def _trust(verb: Verb, words: str = "import this module, whose task families the results name") -> None:
    verb.add_argument("--trust", action="append", default=[], metavar="MODULE", help=words)


def _model(verb: Verb) -> None:
    verb.add_argument(
        "--model", required=True, help="run folder or export, open_clip:NAME[,PRETRAINED], hf:PATH, or module:factory"
    )
    _trust(verb, "import this module where the model names it")
    verb.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    verb.add_argument("--workers", type=_count(1), default=2, help="threads that decode images (default: 2)")


def _suite(verb: Verb, out: str) -> None:
    verb.add_argument("--suite", required=True, help="a suite's name or a YAML file")
    verb.add_argument("--data", type=Path, required=True, help="folder of the data")
    verb.add_argument("--out", type=Path, required=True, help=out)
    verb.add_argument("--limit", type=_count(1), help="only the first N records of each task")
    verb.add_argument("--allow-missing", action="store_true", help="exclude unreadable images and report their number")


def _scored(verb: Verb) -> None:
    _suite(verb, "folder for results.json, samples and report.html")
    verb.add_argument("--resamples", type=_count(0), default=1000, help="bootstrap resamples (default: 1000)")
    verb.add_argument("--seed", type=int, default=0, help="seed of resampling and controls (default: 0)")
    verb.add_argument("--resume", action="store_true", help="resume an interrupted run")
    verb.add_argument("--show-text", action="store_true", help="show report text of real data in the outputs")
    verb.add_argument("--no-html", action="store_true", help="no report.html")
    words = "write the maps of groundings on volumes as NIfTI, to maps/ of the run's folder"
    verb.add_argument("--write-maps", action="store_true", help=words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, see `vlp.core.errors`."""

    def run() -> int:
        options = parser().parse_args(arguments)
        from . import commands

        code: int = getattr(commands, options.verb)(options)
        return code

    return run_command("vlp-eval", run, "--resume goes on from here")


if __name__ == "__main__":
    sys.exit(main())
