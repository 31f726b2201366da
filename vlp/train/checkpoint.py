"""Checkpoint folders: written whole or not at all, rotated, found again. What is in one is the caller's to write.

    checkpoints/step-00000100/    model.safetensors, config.json, preprocess.json, tokenizer/ (what `from_pretrained` reads)
                                  objectives.safetensors where they learn something themselves
                                  recipe.yaml · state/{counters.json, engine/, random/rank-00000.safetensors}
    last -> checkpoints/step-00000100

A checkpoint is written under a temporary name, synced to disk, renamed, and only then does `last` move to it: a process
killed at any moment leaves the previous one in place and usable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlp.core import distributed
from vlp.core.config import ConfigError
from vlp.core.output import PARTIAL, partial_of, remove
from vlp.core.untrusted import MAX_TEXT, read_object

FOLDER = "checkpoints"
LAST = "last"
MADE_BY = "vlp-train"


class CheckpointError(OSError):
    """A checkpoint could not be written on some rank; the last good one is untouched."""


def save(run: Path, step: int, write: Callable[[Path], None], keep: int) -> Path:
    """Have all ranks `write` a checkpoint, publish it as `run/last`, delete all but the newest `keep`; return its folder.

    Collective. Raises CheckpointError on every rank when any rank fails to write; the temporary folder is removed.
    """
    final = run / FOLDER / f"step-{step:08d}"
    temporary = partial_of(final)
    if distributed.is_main():
        _discard(temporary)
    failures = distributed.attempt(
        lambda: temporary.mkdir(parents=True, exist_ok=True) if distributed.is_main() else None
    )
    if not any(failures):
        failures = distributed.attempt(lambda: write(temporary))
    if not any(failures):
        failures = distributed.attempt(lambda: _publish(run, temporary, final) if distributed.is_main() else None)
    if any(failures):
        if distributed.is_main():
            _discard(temporary)
        where = "; ".join(f"rank {rank}: {failure}" for rank, failure in enumerate(failures) if failure)
        good = latest(run)
        rest = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
        raise CheckpointError(f"{final} could not be written ({where}); {rest}")
    if distributed.is_main():
        rotate(run, keep)
    return final


def _publish(run: Path, temporary: Path, final: Path) -> None:
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    if final.exists():  # the step was saved before (a resumed run that lost its way back to it)
        doomed = _doomed(final)
        _discard(doomed)
        final.rename(doomed)
    temporary.rename(final)
    sync(final.parent)
    link = partial_of(run / LAST)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(FOLDER) / final.name)
    os.replace(link, run / LAST)
    sync(run)


def sync(path: Path) -> None:
    """Have the file system write a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_run(run: Path) -> bool:
    """Return whether a folder holds a checkpoint that training goes on from."""
    found = latest(run)
    return found is not None and (found / "recipe.yaml").is_file()


def complete(run: Path) -> list[Path]:
    """Return the run's whole checkpoints, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("step-*") if path.is_dir())


def latest(run: Path) -> Path | None:
    """Return the checkpoint to resume from: what `last` points to, or the newest whole one; None when there is none."""
    pointed = run / LAST
    if pointed.is_dir():
        return pointed.resolve()
    found = complete(run)
    return found[-1] if found else None


def rotate(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, never the one that `last` points to, and what a crash left behind."""
    current = latest(run)
    for path in complete(run)[:-keep]:
        if path.resolve() != current:
            # Renamed first: a folder called step-* is always whole.
            path.rename(_doomed(path))
    for path in (run / FOLDER).glob(f".step-*{PARTIAL}"):
        _discard(path)


def _doomed(folder: Path) -> Path:
    return partial_of(folder.with_name(f"{folder.name}.old"))


def _discard(folder: Path) -> None:
    with suppress(OSError):  # the next save tries again
        remove(folder, MADE_BY)


def write_counters(folder: Path, counters: dict[str, Any]) -> None:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "state" / "counters.json").write_text(json.dumps(counters, indent=1) + "\n", encoding="utf-8")


def read_counters(folder: Path) -> dict[str, Any]:
    """Return the counters of a checkpoint; raises ConfigError when it holds none (an export has no training state)."""
    path = folder / "state" / "counters.json"
    if not path.exists():
        raise ConfigError(f"{folder}: no training state in it ({path} is missing), so it cannot be resumed")
    return read_object(path, MAX_TEXT)
