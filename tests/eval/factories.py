"""What `--model tests.eval.factories:NAME` imports: planted embedders over the shards that the environment names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tests.eval.planted import Planted

SHARDS = "VLP_TEST_SHARDS"


def _shards() -> Path:
    return Path(os.environ[SHARDS])


def perfect() -> Planted:
    return Planted(_shards())


def inverted() -> Planted:
    return Planted(_shards(), sign=-1)


def random() -> Planted:
    return Planted(_shards(), random=True)


def noisy() -> Planted:
    return Planted(_shards(), noise=2.0)


class Slow(Planted):
    """The noisy embedder, slowly, so that its process can be killed at work."""

    def __init__(self, shards: Path) -> None:
        super().__init__(shards, noise=2.0)

    def images(self, inputs: NDArray[Any], patches: bool) -> Any:
        time.sleep(0.05)
        return super().images(inputs, patches)


def slow() -> Slow:
    return Slow(_shards())
