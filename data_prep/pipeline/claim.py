"""Who builds in a folder: the jobs of one array at the same time, of any other builds only one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from vlp.core.output import InUseError, hold, remove

MADE_BY = "vlp-prep build"
MOMENT = 120.0
"""Seconds that the other jobs of an array are waited for, while one gathers what all have made."""


class Claim:
    """The hold of job `part` of `parts` on the folder `state` of a build."""

    def __init__(self, state: Path, shard_of: tuple[int, int], overwrite: bool) -> None:
        self.state, self.overwrite = state, overwrite
        self._own = state / f".vlp-{shard_of[0]}-of-{shard_of[1]}.lock"
        self._siblings = f"*-of-{shard_of[1]}.lock"
        self._held = ExitStack()

    def open(self, sign: Callable[[], None]) -> None:
        """Take the hold; `sign` is called when no other build can get in. Raises InUseError and what `sign` does."""
        with self.alone():
            try:
                for lock in self._locks():
                    if lock == self._own or self.overwrite or not lock.match(self._siblings):
                        self._try(lock)
                self._held.enter_context(hold(self.state, MADE_BY, name=self._own.name))
                sign()
            except BaseException:
                self._held.close()
                self._leave_nothing()
                raise

    def close(self) -> None:
        """Let go."""
        with self.alone():
            self._held.close()
            self._leave_nothing()

    def alone(self) -> AbstractContextManager[Any]:
        """Hold the folder against all other jobs, for a moment; they wait that long."""
        return hold(self.state, MADE_BY, wait=MOMENT)

    def _locks(self) -> list[Path]:
        return sorted(self.state.glob(".vlp-*.lock"))

    def _try(self, lock: Path) -> None:
        """Raise InUseError while another process has the lock."""
        with hold(self.state, MADE_BY, name=lock.name):
            pass

    def _leave_nothing(self) -> None:
        """Take locks and options away where nothing was built and no other job is at it."""
        if any(self.state.glob("*-[0-9]*.json")):
            return
        with suppress(InUseError):
            for lock in self._locks():
                self._try(lock)
            for path in (*self._locks(), self.state / "options.json"):
                remove(path, MADE_BY)
