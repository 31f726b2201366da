"""A model library of one's own: one file, and one import line in `eval/models/__init__.py`, or `--model module:factory`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.eval.conftest import Run, score
from vlp.core.config import ConfigError
from vlp.modalities.image.decode import decode
from vlp_eval import results
from vlp_eval.data.spec import DataError
from vlp_eval.models.base import DualEncoder, libraries
from vlp_eval.models.load import load

SIDE, DIM = 32, 8


class Toy(DualEncoder):
    """Embeds the corner of an image and the letters of a text: `toy:SEED`."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        super().__init__(torch.nn.Linear(SIDE * SIDE, DIM), None, device)
        spec = {"size": SIDE, "channels": 1, "mean": [0.5], "std": [0.25]}
        self.card = self._describe("toy", f"toy-{seed}", ("corner", "letters"), spec, None)

    @classmethod
    def load(cls, name: str, device: str, trust: Sequence[str] = ()) -> Toy:
        return cls(int(name), device)

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[int, int]]:
        pixels = decode(image, 1)
        return pixels[None, :SIDE, :SIDE].astype(np.float32), (pixels.shape[0], pixels.shape[1])

    def _images(self, pixels: Tensor) -> Tensor:
        rows: Tensor = self._model(pixels.flatten(1))
        return rows

    def _texts(self, texts: list[str]) -> Tensor:
        letters = [[text.count(chr(97 + at)) for at in range(DIM)] for text in texts]
        return torch.tensor(letters, dtype=torch.float32)


def make() -> Toy:
    return Toy(3)


@pytest.fixture
def registered() -> Iterator[None]:
    """Stand for the import line: registering is what the import of a library's file does."""
    libraries.register("toy")(Toy)
    yield
    del libraries._own["toy"]


@pytest.mark.usefixtures("registered")
def test_a_library_is_one_file_and_one_import_line(run: Run, shards: Path, tmp_path: Path) -> None:
    assert {"toy", "vlp", "open_clip", "hf"} <= set(libraries)
    own = load("toy:3", "cpu")
    assert own.card.dim == DIM and own.card.name == "toy-3"
    assert own.encode("text", ["abba"])["text"].tolist() == [[2, 2, 0, 0, 0, 0, 0, 0]]
    for modality, words in (("patches", "no patch features"), ("words", "no word features")):
        with pytest.raises(DataError, match=words):
            own.encode(modality, [np.zeros((1, SIDE, SIDE), np.float32)])
    for number, model in enumerate(("toy:3", f"{__name__}:make")):
        assert score(run, shards, tmp_path / str(number), model, "--device", "cpu") == 3  # grounding needs patches
    trees = [results.read(tmp_path / str(number)) for number in (0, 1)]
    assert trees[0]["tasks"] == trees[1]["tasks"] and trees[0]["model"] == trees[1]["model"]


def test_an_unknown_library_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot import model library 'toy:3'"):
        load("toy:3", "cpu")
