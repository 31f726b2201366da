"""`vlp-eval`: list, show and check tasks; run a suite; cache embeddings and score them again; compare; report.

Exit codes: 0 all scored, 1 the machine or the program failed, 2 nothing could be scored (or the command is wrong), 3 some
tasks could not be scored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlp.core.errors import INTERRUPTED, report

FORESEEN = (ValueError, LookupError)


def parser() -> argparse.ArgumentParser:
    """Return the command line; nothing heavy is imported for it."""
    top = argparse.ArgumentParser(prog="vlp-eval", description="Score a vision-language checkpoint zero-shot.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    one = verbs.add_parser("ls", help="tasks and suites, what each needs, whether the data is there")
    one.add_argument("--data", type=Path, help="folder to look for the data in")
    one.add_argument("--suite", help="only this suite (a name or a YAML file)")

    one = verbs.add_parser("show", help="every prompt, the scoring rule, the published numbers of a task")
    one.add_argument("task", help="a task's id, as `ls` prints it")
    one.add_argument("--suite", help="the suite it is in (a name or a YAML file)")
    one.add_argument("--data", type=Path, help="also print the hash of the split")

    one = verbs.add_parser("check", help="counts, prevalence, hashes, patient overlap with training data")
    one.add_argument("task", help="a task's id")
    one.add_argument("--suite", help="the suite it is in (a name or a YAML file)")
    one.add_argument("--data", type=Path, required=True, help="folder of the data")
    one.add_argument("--train", type=Path, help="shards that a model was trained on")
    one.add_argument("--train-split", default="train", help="their split (default: train)")
    one.add_argument("--decode", action="store_true", help="decode every image")

    one = verbs.add_parser("run", help="score a model on a suite")
    _model(one)
    _scored(one)
    one.add_argument("--cache", type=Path, help="keep the embeddings in this folder, and use what is there")

    one = verbs.add_parser("embed", help="encode what a suite needs, once, for `score`")
    _model(one)
    one.add_argument("--suite", required=True, help="a suite's name or a YAML file")
    one.add_argument("--data", type=Path, required=True, help="folder of the data")
    one.add_argument("--out", type=Path, required=True, help="folder for the embeddings")
    one.add_argument("--limit", type=_count(1), help="only the first N records of each task")
    one.add_argument("--allow-missing", action="store_true", help="leave unreadable images out and count them")

    one = verbs.add_parser("score", help="score cached embeddings without the model")
    one.add_argument("--embeddings", type=Path, required=True, help="folder that `embed` wrote")
    _scored(one)

    one = verbs.add_parser("compare", help="paired differences between runs with confidence intervals")
    one.add_argument("runs", type=Path, nargs="+", help="run folders; each is compared with the first")
    one.add_argument("--resamples", type=_count(0), default=2000)
    one.add_argument("--json", type=Path, help="also write the table here")

    one = verbs.add_parser("report", help="write the page, or a table, of a run")
    one.add_argument("out", type=Path, help="a run folder")
    kind = one.add_mutually_exclusive_group()
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


def _model(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--model", required=True, help="run folder or export, open_clip:NAME[,PRETRAINED], hf:PATH, or module:factory"
    )
    one.add_argument(
        "--trust", action="append", default=[], metavar="MODULE", help="import this module where the model names it"
    )
    one.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    one.add_argument("--workers", type=_count(1), default=2, help="threads that decode images (default: 2)")


def _scored(one: argparse.ArgumentParser) -> None:
    one.add_argument("--suite", required=True, help="a suite's name or a YAML file")
    one.add_argument("--data", type=Path, required=True, help="folder of the data")
    one.add_argument("--out", type=Path, required=True, help="folder for results.json, samples and report.html")
    one.add_argument("--limit", type=_count(1), help="only the first N records of each task")
    one.add_argument("--resamples", type=_count(0), default=1000, help="bootstrap resamples (default: 1000)")
    one.add_argument("--seed", type=int, default=0, help="seed of resampling and controls")
    one.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    one.add_argument("--allow-missing", action="store_true", help="leave unreadable images out and count them")
    one.add_argument("--show-text", action="store_true", help="show report text of real data in the outputs")
    one.add_argument("--no-html", action="store_true", help="no report.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, see `vlp.core.errors`."""
    options = parser().parse_args(arguments)
    from . import commands

    try:
        return commands.VERBS[options.verb](options)
    except KeyboardInterrupt:
        print("vlp-eval: interrupted; --resume goes on from here", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:
        foreseen = () if isinstance(error, (UnicodeDecodeError, IndexError)) or type(error) is KeyError else FORESEEN
        return report("vlp-eval", error, foreseen)


if __name__ == "__main__":
    sys.exit(main())
