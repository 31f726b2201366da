"""What `--model tests.eval.factories:NAME` imports: planted embedders over the shards that the environment names."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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

    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, NDArray[np.float32]]:
        time.sleep(0.05 if modality != "text" else 0)
        return super().encode(modality, items)


def slow() -> Slow:
    return Slow(_shards())
