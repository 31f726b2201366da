"""Three real processes that every test on ranks shares."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests import ROOT


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what each rank of each layout found, by `layout-rank`; the processes run once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.objectives.ranks"]
    started = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment, cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(3)
    ]
    try:
        errors = [one.communicate(timeout=240)[1].decode() for one in started]
    finally:
        for one in started:
            one.kill()
    assert all(one.returncode == 0 for one in started), "\n".join(errors)
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
