"""`vlp-train RECIPE [a.b=c ...]`: the command line of the trainer. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlp.core.errors import report, run_command

if TYPE_CHECKING:
    from .recipe import Recipe

EPILOG = """examples:
  vlp-train recipes/smoke_cpu.yaml data.train=runs/covid/shards name=covid
  vlp-train recipes/clip.yaml data.train=shards optim.lr=1e-4 engine.precision=bf16
  vlp-train recipes/clip.yaml data.train=shards --plan        which process would read what
  launch/torchrun.sh recipes/clip.yaml data.train=shards      all GPUs of this machine, resumes by itself

Any key of a recipe can be set as a.b=value (a list's item as a.0.b=value); the run goes to {out}/{name}.
Exit codes: 0 finished, or stopped by SIGTERM, SIGUSR1 or ctrl-C with a checkpoint saved ("resumable");
1 the run failed (a full disk, a loss that is not finite); 2 the recipe, the data or the command is wrong;
130 stopped by ctrl-C with none saved; 141 nothing reads the output any more."""

RESUME = "--resume goes on from the last checkpoint"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="vlp-train",
        description="Train a vision-language model as a recipe says.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("recipe", type=Path, help="a YAML file")
    made.add_argument("overrides", nargs="*", metavar="a.b=c", help="a key of the recipe and its value")
    made.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint; start fresh if there is none"
    )
    made.add_argument("--plan", action="store_true", help="print which samples each process would read, and stop")
    made.add_argument(
        "--dry-run", action="store_true", help="build everything, run one step, print the memory, and stop"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    # DDP remarks that it looked for unused parameters and found none, as is the rule here.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Options may stand between overrides.
    return run_command(speaker(), lambda: run(parser().parse_intermixed_args(argv)), RESUME)


def speaker() -> str:
    """Return the command with its rank, as messages begin."""
    rank = os.environ.get("RANK")
    return "vlp-train" if rank is None else f"vlp-train: rank {rank}"


def run(arguments: argparse.Namespace) -> int:
    from .recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.plan:
        from .dry_run import print_plan

        print_plan(recipe)
        return 0
    from vlp.core import distributed

    from .signals import exit_with_launcher

    if distributed.launched():  # what a shell started in the background outlives the shell
        exit_with_launcher()
    distributed.init(recipe.engine.timeout_minutes)
    show_log(distributed.is_main())
    if arguments.dry_run:
        from .dry_run import dry_run

        dry_run(recipe)
    else:
        outcome = train_or_report(recipe, arguments.resume)
        if distributed.is_main() or outcome == "resumable":
            rank = f"rank {distributed.rank()}: " if distributed.world() > 1 else ""
            print(f"vlp-train: {rank}{outcome}: {recipe.folder}", file=sys.stderr, flush=True)  # noqa: T201
    distributed.shutdown()
    return 0


def show_log(everything: bool) -> None:
    """Print what the library remarks (which weights were loaded, what is left frozen), on other ranks warnings only."""
    log, handler = logging.getLogger("vlp"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vlp-train: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if everything else logging.WARNING)


def train_or_report(recipe: Recipe, resume: bool) -> str:
    """Train; when that fails while other ranks have exited, name them, as the error itself never does."""
    from vlp.core import distributed

    from .signals import find_dead_ranks
    from .trainer import train

    try:
        return train(recipe, resume)
    except Exception as error:
        lost = find_dead_ranks(recipe.folder, distributed.world()) if distributed.world() > 1 else []
        code = report(speaker(), error)
        if lost:
            exited = f"rank {distributed.rank()}: {', '.join(lost)} exited"
            message = f"vlp-train: {exited}; the last checkpoint stands, --resume goes on"
            print(message, file=sys.stderr, flush=True)  # noqa: T201
        if distributed.world() > 1:
            # Leaving in good order would wait for ranks that no longer answer.
            sys.stdout.flush()
            os._exit(code)
        raise SystemExit(code) from None


if __name__ == "__main__":
    sys.exit(main())
