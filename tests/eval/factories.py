"""What `--model factories:NAME` imports: planted embedders over the shards that the environment names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from planted import Planted

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


class Mortal(Planted):
    """A noisy embedder whose process dies, without a word, when it is asked for its third batch of texts."""

    def __init__(self, shards: Path) -> None:
        super().__init__(shards, noise=2.0)

    def images(self, inputs: NDArray[Any], patches: bool) -> Any:
        if self.calls == 2:
            os._exit(9)
        return super().images(inputs, patches)


def mortal() -> Mortal:
    return Mortal(_shards())
