"""Processes of this machine: how many cores there are, whether one still runs, which launcher is above one, workers."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "deepspeed", "accelerate")
LAUNCHER_MODULES = ("deepspeed.launcher.", "accelerate.commands.")
PR_SET_PDEATHSIG = 1
CLOCK = 2.0
"""Seconds by which the start of a process may seem to move: it is told by a clock that is corrected."""


def launchers(pid: int) -> list[psutil.Process]:
    """Return the launchers among a process's ancestors, the nearest first, up to the first that the system hides."""
    found = []
    # With hidepid, /proc hides the processes of others: often sshd's or the batch system's.
    with suppress(psutil.Error):
        process = psutil.Process(pid).parent()
        while process is not None:
            if is_launcher(process.cmdline()):
                found.append(process)
            process = process.parent()
    return found


def is_launcher(command: list[str]) -> bool:
    """Return whether a command line is a launcher's: named so itself, or the script or module that a python runs."""
    names = [Path(word).name for word in command[:4]]
    if not names or not (names[0].startswith("python") or names[0] in LAUNCHERS):
        return False
    return any(name in LAUNCHERS or name.startswith(LAUNCHER_MODULES) for name in names)


def start_time(pid: int) -> float:
    """Return when a process started, in seconds since 1970; 0 where the system does not tell."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def is_alive(pid: int, started: float | str) -> bool:
    """Return whether the process that had this pid and start time (a text in old files) still runs; a zombie does not."""
    try:
        process, began = psutil.Process(pid), float(started or 0)
    except (psutil.Error, TypeError, ValueError):  # a file that was written by hand, or not by us
        return False
    return is_running(process) and abs(process.create_time() - began) < CLOCK


def is_running(process: psutil.Process) -> bool:
    """Return whether a process still runs (a zombie does not), however the clock was set meanwhile."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


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


def start_worker() -> None:
    """Begin a process of a pool: it ends when its parent does, and Ctrl-C is the parent's to answer."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
