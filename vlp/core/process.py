"""Processes of this machine: whether one still runs, which launcher is above one, and ending with one's parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "deepspeed", "accelerate")
LAUNCHER_MODULES = ("deepspeed.launcher.", "accelerate.commands.")
PR_SET_PDEATHSIG = 1


def launchers(pid: int) -> dict[int, str]:
    """Return the launchers among a process's ancestors: {pid: start time}, {} where /proc does not tell."""
    found = {}
    while pid > 1:
        pid, started, command = _parent(pid)
        if pid > 1 and is_launcher(command):
            found[pid] = started
    return found


def is_launcher(command: list[str]) -> bool:
    """Return whether a command line is a launcher's: named so itself, or the script or module that a python runs."""
    names = [Path(word).name for word in command[:4]]
    if not names or not (names[0].startswith("python") or names[0] in LAUNCHERS):
        return False
    return any(name in LAUNCHERS or name.startswith(LAUNCHER_MODULES) for name in names)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; [] when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" where /proc does not tell."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _parent(pid: int) -> tuple[int, str, list[str]]:
    """Return a process's parent: pid, start time, command line."""
    fields = _stat(pid)
    if not fields:
        return 0, "", []
    parent = int(fields[1])
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        command = []
    return parent, start_time(parent), command


def is_alive(pid: int, started: str) -> bool:
    """Return whether the process that had this pid and start time still runs (a zombie does not)."""
    fields = _stat(pid)
    return bool(fields) and fields[19] == started and fields[0] not in ("Z", "X")


def end_with_parent() -> None:
    """Have this child of `multiprocessing` end when its parent does, however that ends: kill -9 sends no word.

    A thread waits for the parent; Linux kills a child whose threads do not get a turn as well.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
