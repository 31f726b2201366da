"""What all tests share: the servers of warm processes, and the order in which files are tested."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import warm

# A busy machine is no fault of a property: no test asserts a time.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

LONGEST = (
    "tests/test_end_to_end.py",
    "tests/test_same_numbers.py",
    "tests/objectives/test_kinds.py",
    "tests/eval/test_public_suites.py",
    "tests/export/test_formats.py",
    "tests/eval/test_run.py",
    "tests/train/engines/test_host_syncs.py",
    "tests/train/test_run_folder.py",
    "tests/data_prep/pipeline/test_one_build.py",
)
"""They start first, so that no processor is left with one of them at the end while the others are idle."""
TOGETHER = {
    "tests/test_same_numbers.py::": "same numbers",
    "tests/objectives/test_kinds.py::test_many_processes_are_one": "ranks",
    "tests/objectives/test_vectors.py::test_two_ranks": "ranks",
    "tests/objectives/test_vectors.py::test_sinkhorn_of_two_ranks": "ranks",
}
"""Tests that one processor runs, since what they share takes half a minute to make.

Not by xdist's own mark: xdist 3.8 keeps it where pytest 9.2 no longer looks, and each processor made everything.
"""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers find them in their environment
        warm.open_place()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        warm.close_place()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first where several processes share the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for start, group in TOGETHER.items() if nodeid.startswith(start)), nodeid)

    return Scheduling(config, log)


@pytest.fixture
def warm_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exporting check what it wrote in a warm process: for tests of exports, not of that process's start."""
    monkeypatch.setattr("vlp.export.verify.subprocess", warm)
