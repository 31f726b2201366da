"""Records on which a process was killed, mostly for want of memory: named, and left out by `--resume`.

A process leaves the number of the record that it is at in a small file of the build's state folder, and takes the file
away when it ends in any way that it notices. What is still there was killed. A worker of a build that is alive was killed
for its record's sake; where the whole build is gone, that may have been the user, so the record is tried once more.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from vlp.core.output import write_whole

FILE = "killed.json"
KILLED = "killed"
"""The reason in rejected.jsonl."""
ENOUGH = 2
"""So many deaths on one record and it is left out."""


def _name(pid: int) -> str:
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:60]
    return f".at-{host}-{pid}"


class Trail:
    """Where this process writes down which record it is at."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _name(os.getpid())
        self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def at(self, index: int | None) -> None:
        """Write down the record that is begun; None when it is done."""
        os.pwrite(self._handle, f"{-1 if index is None else index:<20}".encode(), 0)

    def leave_on_sigterm(self) -> None:
        """Take the file away when this worker is told to end, as all are when another was killed."""

        def leave(*_: object) -> None:
            self.close()
            os._exit(128 + signal.SIGTERM)

        signal.signal(signal.SIGTERM, leave)

    def close(self) -> None:
        """Take the file away."""
        with suppress(OSError):
            self._path.unlink()


def collect(folder: Path, deaths: int) -> list[int]:
    """Return the records that processes of this machine died at, and remember `deaths` for each of them."""
    found = []
    for path in folder.glob(_name(0).removesuffix("0") + "*"):
        pid = path.name.rpartition("-")[2]
        if not pid.isdigit() or (psutil.pid_exists(int(pid)) and int(pid) != os.getpid()):
            continue
        with suppress(OSError, ValueError):
            found.append(int(path.read_text(encoding="ascii") or -1))
        with suppress(OSError):
            path.unlink()
    found = sorted({index for index in found if index >= 0})
    if found:
        known = _read(folder)
        for index in found:
            known[index] = known.get(index, 0) + deaths
        write_whole(folder / FILE, json.dumps(known))
    return found


def left_out(folder: Path) -> frozenset[int]:
    """Return the records that are not tried again."""
    return frozenset(index for index, deaths in _read(folder).items() if deaths >= ENOUGH)


def forget(folder: Path) -> None:
    """Remove what is remembered, for a build from the start."""
    collect(folder, 0)
    with suppress(OSError):
        (folder / FILE).unlink()


def _read(folder: Path) -> dict[int, int]:
    try:
        return {int(index): int(deaths) for index, deaths in json.loads((folder / FILE).read_text("ascii")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
