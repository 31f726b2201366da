"""Processes of this machine, where the system hides some and a lock file says something else than we wrote."""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest

from vlp.core.process import is_alive, launchers, start_time


@pytest.mark.parametrize("started", ["abc", "", "4711", None, [], {}])
def test_a_start_time_that_is_none_of_ours_is_another_process(started: Any) -> None:
    assert is_alive(os.getpid(), start_time(os.getpid()))
    assert not is_alive(os.getpid(), started)


@pytest.mark.parametrize("pid", [-1, "1", None, 1 << 70])
def test_a_number_that_no_process_has_is_not_alive(pid: Any) -> None:
    assert not is_alive(pid, 1.0)


def test_launchers_below_a_hidden_process_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster with hidepid=1, where the batch system's own processes cannot be looked at."""
    above, parent_of = os.getppid(), psutil.Process.parent

    def parent(process: psutil.Process) -> psutil.Process | None:
        if process.pid == above:
            raise psutil.AccessDenied(above)
        return parent_of(process)

    monkeypatch.setattr(psutil.Process, "parent", parent)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: ["torchrun"])
    assert [launcher.pid for launcher in launchers(os.getpid())] == [above]
