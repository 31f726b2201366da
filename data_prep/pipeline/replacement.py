"""A finished build takes the place of an older one in its folder: the old set or the new one is whole, whatever happens.

The old files wait in a folder of their own until all new ones are in place. The manifest leaves first and comes last, so
that no reader meets a mixed set; where it has come, the new set is complete. What an error or a kill interrupts is undone,
or brought to its end where the new manifest was there, by `settle`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from vlp.core.output import PARTIAL, remove, write_whole

from .claim import MADE_BY

STATE, BESIDE, WAITING = ".build", ".overwrite", ".replaced"
MANIFEST, MARK = "manifest.jsonl", f"{STATE}/options.json"
_ALL_MOVED = "all-old-files-are-here"


def replace_build(folder: Path) -> None:
    """Let the build in `.overwrite` of a folder replace the one in the folder; raises OSError, the old set whole."""
    new, waiting = folder / BESIDE, folder / WAITING
    try:
        (waiting / STATE).mkdir(parents=True)
        for name in _files(folder):
            os.replace(folder / name, waiting / name)
        write_whole(waiting / _ALL_MOVED, "")
        for name in reversed(_files(new)):
            os.replace(new / name, folder / name)
    except BaseException:
        with suppress(OSError):
            settle(folder)
        raise
    settle(folder)


def settle(folder: Path) -> None:
    """Bring a replacement that was interrupted to its end: the new set where all of it has come, else the old one."""
    new, waiting = folder / BESIDE, folder / WAITING
    if not waiting.is_dir():
        return
    if (waiting / _ALL_MOVED).is_file():
        if (folder / MANIFEST).is_file():
            if (new / MARK).is_file():
                os.replace(new / MARK, folder / MARK)  # the old set's stood there all the time: the folder is ours
            remove(new, MADE_BY)
            remove(waiting, MADE_BY)
            return
        (new / STATE).mkdir(parents=True, exist_ok=True)
        for name in _files(folder):
            os.replace(folder / name, new / name)
        (waiting / _ALL_MOVED).unlink()
    for path in sorted(waiting.rglob("*"), key=lambda path: path.name == MANIFEST):
        if path.is_file():
            os.replace(path, folder / path.relative_to(waiting))
    remove(waiting, MADE_BY)


def _files(folder: Path) -> list[str]:
    """Return the names of what a build made in a folder, all but its mark: the manifest first, what names shards last."""
    for path in (folder / STATE).glob(f".*{PARTIAL}"):
        remove(path, MADE_BY)
    state = sorted(path.name for path in (folder / STATE).glob("[!.]*") if path.is_file())
    shards = [f"{name.removesuffix('.json')}.tar" for name in state if fnmatch(name, "*-[0-9]*.json")]
    results = [name for name in (MANIFEST, "rejected.jsonl", "README.md", *shards) if (folder / name).is_file()]
    return results + [f"{STATE}/{name}" for name in state if f"{STATE}/{name}" != MARK]
