"""What all tests share: the server of warm processes."""

from __future__ import annotations

import pytest

from tests import warm


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers find it in their environment
        warm.open_place()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        warm.close_place()


@pytest.fixture
def warm_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exporting check what it wrote in a warm process: for tests of exports, not of that process's start."""
    monkeypatch.setattr("vlp.export.verify.subprocess", warm)
