"""A folder that a command writes to: marked as its own, held against other processes, cleared of nothing else.

`.vlp.lock` in the folder is mark and lock in one: it names the command that made the folder and, while a process holds
it, that process. The lock is the operating system's, so a process that is killed lets go of it. What is being written has
a name that ends in `.vlp-partial`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import ConfigError
from .process import is_alive, launchers, start_time
from .untrusted import read_object, replacing

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".vlp.lock"
LOCKS = ".vlp*.lock"
PARTIAL = ".vlp-partial"
ENDING_SECONDS = 90.0
"""How long a holder that is about to end is waited for: its launcher is gone, and it saves a checkpoint."""


class InUseError(ConfigError):
    """Another process writes to the folder; the message says which."""


@contextmanager
def hold(
    folder: Path, made_by: str, own: Iterable[str] = (), name: str = LOCK, is_ours: bool = False, wait: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Make `folder` with the mark of the command `made_by`, and hold it while the block runs; yields what the mark says.

    `own` are names that the command writes there and may remove: a folder that holds one and not the mark is refused.
    `is_ours` adopts a folder that the caller knows by what lies in it. A lock of another `name` is no mark, and does not stay.
    A folder that stays empty is not left behind; one that is moved takes its mark along. `wait`: seconds that another
    holder is waited for.

    Raises ConfigError, InUseError with who holds it, and OSError.
    """
    if not is_ours:
        require_own(folder, made_by, own)
    is_new = not folder.exists() or mark(folder) == made_by
    folder.mkdir(parents=True, exist_ok=True)
    path, facts = folder / name, {"made_by": made_by}
    with _hold_lock(path, wait):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            _write(descriptor, {**facts, **_holder()})
            yield facts
        finally:
            is_empty = folder.is_dir() and os.listdir(folder) == [name]
            with suppress(OSError):  # a mounted folder stays, and a read-only one as it is
                if name != LOCK or is_empty:
                    path.unlink()
                else:
                    _write(descriptor, facts)
                if is_empty and is_new:
                    folder.rmdir()
            os.close(descriptor)


def require_own(folder: Path, made_by: str, own: Iterable[str]) -> None:
    """Raise ConfigError for a folder that holds one of the names `own` and was not made by the command."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: choose another")
    there = sorted(name for name in own if os.path.lexists(folder / name))
    if there and mark(folder) != made_by:
        raise ConfigError(
            f"{folder} holds {', '.join(there)} and was not made by {made_by}, which would overwrite that: "
            "choose another folder"
        )


def mark(folder: Path) -> str | None:
    """Return the command that a folder was made by, None for a folder without our mark."""
    made_by = facts(folder).get("made_by")
    return made_by if isinstance(made_by, str) else None


def facts(folder: Path) -> dict[str, Any]:
    """Return what the mark of a folder says; {} where it has none."""
    return _read(folder / LOCK) or _read(folder / ".build" / LOCK)  # where the jobs of a build share it


def partial_of(path: Path) -> Path:
    """Return the name under which a file or folder is written before it gets its own."""
    return path.with_name(f".{path.name}{PARTIAL}")


def remove(path: Path, made_by: str, *sources: Path) -> None:
    """Remove a file, link or folder of ours; nothing happens where it is not there.

    Ours is what has the name of a partial one, what lies in a folder marked by the command `made_by`, and a folder with
    that mark. Raises ConfigError for anything else, for a folder that is, holds or lies in one of `sources` (and for one
    that holds the working or home folder), InUseError while another process writes there.
    """
    if path.is_symlink() or not path.is_dir():
        _require_mark(path, made_by)
        path.unlink(missing_ok=True)
        return
    check_apart(path, *sources)
    _require_mark(path, made_by)
    for lock in (*path.glob(LOCKS), *path.glob(f"*/{LOCKS}")):
        with _hold_lock(lock):  # no process writes there any more
            pass
    shutil.rmtree(path)


def _require_mark(path: Path, made_by: str) -> None:
    is_partial = path.name.endswith(PARTIAL)
    if is_partial or not os.path.lexists(path) or mark(path) == made_by:
        return
    if not any(mark(parent) == made_by for parent in path.absolute().parents[:3]):
        raise ConfigError(f"{path} was not made by {made_by}: remove it yourself, or choose another place")


def check_apart(path: Path, *sources: Path) -> None:
    """Raise ConfigError for a folder that is, holds or lies in one of `sources`, or holds the working or home folder."""
    place = path.resolve()
    for source in (*sources, Path.cwd(), Path.home()):
        real = source.resolve()
        if place == real or place in real.parents:
            what = "is" if place == real else "holds"
            raise ConfigError(f"{path} {what} {source}, which is not to be overwritten: choose another folder")
        if source in sources and real in place.parents:
            raise ConfigError(f"{path} lies in {source}, which is not to be written to: choose another folder")


@contextmanager
def whole(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under its name only when it is complete and on the disk."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        yield text
        text.detach()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; a pipe or terminal (`/dev/stdout`) is written as it comes."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replacing(path) as file:
        file.write(data)


def locked(path: Path, timeout: float = -1) -> BaseFileLock:
    """Return a lock file, made when missing as its folder is; a killed process lets go of it.

    Others wait for it, at most `timeout` seconds (-1: as long as it takes; filelock's Timeout).
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=timeout, preserve_lock_file=True)


@contextmanager
def _hold_lock(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file. Raises InUseError at once, or after a while where the process that holds it is about to end."""
    from filelock import Timeout

    lock = locked(path, timeout=0)
    began, is_told = time.monotonic(), False
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            holder, waited = _read(path), time.monotonic() - began
            if waited > (ENDING_SECONDS if _is_ending(holder) else wait):
                raise InUseError(
                    f"{path.parent} is being written by {_words(holder)}: wait for it, or stop it"
                ) from None
            if not is_told and waited > 1:
                sys.stderr.write(f"waiting for {_words(holder)} to end\n")
                is_told = True
            time.sleep(0.2)
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            sys.stderr.write(f"{path.parent}: its file system knows no locks; let no other process write there\n")
            break
    try:
        yield
    finally:
        lock.release()


def _is_ending(holder: dict[str, Any]) -> bool:
    """Return whether the holder is about to end: it has been killed (its children end later), or its launcher has."""
    if holder.get("host") != socket.gethostname() or "started" not in holder:
        return False
    if not is_alive(holder["pid"], holder["started"]):
        return True
    return not all(is_alive(int(pid), started) for pid, started in holder["launchers"].items())


def _holder() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": start_time(os.getpid()),
        "launchers": {launcher.pid: start_time(launcher.pid) for launcher in launchers(os.getpid())},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:300],
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _words(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return "pid {pid} on {host} since {since} ({command})".format(**holder)


def _read(path: Path) -> dict[str, Any]:
    """Return what a lock file says; {} for a link, a missing file and any other content."""
    with suppress(ConfigError):
        return {} if path.is_symlink() else read_object(path)
    return {}


def _write(descriptor: int, content: dict[str, Any]) -> None:
    """Write the lock file in place: a full disk leaves the old content, as there is room for it already."""
    data = json.dumps(content).encode() + b"\n"
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
