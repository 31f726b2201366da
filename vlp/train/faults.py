"""What goes wrong around a run: being told to stop, a launcher that dies, a rank that disappears.

Signals only set a flag; the loop asks all ranks for theirs once a step, so that all save at the same one.
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

LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "deepspeed", "accelerate")
LAUNCHER_MODULES = ("deepspeed.launcher.", "accelerate.commands.")
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


def follow_parent() -> None:
    """Have a launched process told to stop when its launcher is gone, as an orphan would train on for nobody.

    Linux sends SIGTERM at the parent's death; a thread watches the launchers further up as well (deepspeed's front
    process is this one's grandparent), and ends the process if it has not stopped by itself in a minute.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    watched = launchers(os.getpid())
    if watched:
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()


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


def _parent(pid: int) -> tuple[int, str, list[str]]:
    """Return a process's parent: pid, start time, command line."""
    fields = _stat(pid)
    if not fields:
        return 0, "", []
    parent = int(fields[1])
    above = _stat(parent)
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        command = []
    return parent, above[19] if above else "", command


def is_alive(pid: int, started: str) -> bool:
    """Return whether the process that had this pid and start time still runs (a zombie does not)."""
    fields = _stat(pid)
    return bool(fields) and fields[19] == started and fields[0] not in ("Z", "X")


def _watch(watched: dict[int, str]) -> None:
    while all(is_alive(pid, started) for pid, started in watched.items()):
        time.sleep(1.0)
    print("vlp-train: the launcher is gone, stopping", file=sys.stderr, flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def sign_in(run: Path, rank: int) -> None:
    """Leave word of where this rank runs, so that the others can name it if it disappears."""
    folder = run / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    fields = _stat(os.getpid())
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "started": fields[19] if fields else ""}
    (folder / f"{rank}.json").write_text(json.dumps(entry) + "\n", encoding="utf-8")


def missing_ranks(run: Path, world: int) -> list[str]:
    """Return a line for each rank of this host that signed in and is not running any more."""
    gone = []
    for rank in range(world):
        try:
            entry = json.loads((run / "ranks" / f"{rank}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if entry["host"] == socket.gethostname() and not is_alive(entry["pid"], entry["started"]):
            gone.append(f"rank {rank} (pid {entry['pid']} on {entry['host']})")
    return gone
