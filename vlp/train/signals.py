"""What goes wrong around a run: a signal to stop, a launcher that dies, a rank that disappears.

Signals only set a flag; the trainer asks all ranks for theirs once a step, so that all save at the same one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import psutil

from vlp.core.process import PR_SET_PDEATHSIG, is_alive, is_running, launchers, start_time

GRACE_SECONDS = 60.0


class StopRequest:
    """Remembers SIGTERM (job over, pre-empted), SIGUSR1 (Slurm's warning before the end) and SIGINT (ctrl-C).

    A second SIGINT is not caught: it interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __bool__(self) -> bool:
        return self.signal is not None


def exit_with_launcher() -> None:
    """Stop a launched process when its launcher has exited: an orphan would train on without a use.

    Linux sends SIGTERM at the parent's death; a thread watches the launchers further up as well (deepspeed's front
    process is this one's grandparent), and ends the process if it has not stopped by itself in a minute.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    watched = launchers(os.getpid())
    if watched:
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _watch(watched: list[psutil.Process]) -> None:
    while all(map(is_running, watched)):
        time.sleep(1.0)
    print("vlp-train: the launcher has exited, stopping", file=sys.stderr, flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def register_rank(run: Path, rank: int) -> None:
    """Leave word of where this rank runs, so that the others can name it if it disappears."""
    folder = run / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "started": start_time(os.getpid())}
    (folder / f"{rank}.json").write_text(json.dumps(entry) + "\n", encoding="utf-8")


def find_dead_ranks(run: Path, world: int) -> list[str]:
    """Return a line for each rank of this host that signed in and is not running any more."""
    dead = []
    for rank in range(world):
        try:
            entry = json.loads((run / "ranks" / f"{rank}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if entry["host"] == socket.gethostname() and not is_alive(entry["pid"], entry["started"]):
            dead.append(f"rank {rank} (pid {entry['pid']} on {entry['host']})")
    return dead
