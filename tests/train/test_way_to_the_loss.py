"""How many files and frames of ours a sample passes from the disk to its loss.

What is counted: the second and third batch of the demo recipe (tiny, on synthetic shards, `data.workers=0`), from
`Loader.__iter__`, which reads them, to the return of `TrainStep.forward`, which returns their loss.

- Files: those of `vlp/` in which a Python function runs in both of the two batches. What runs once for a shard, a window
  or a run, and whose result is kept, is not on the way of each sample.
- Plug-ins count as one file a family, since the recipe decides how many of them there are: the layers of the model
  (`vlp/models/towers` and `heads`), the kinds of tokenizers (`vlp/modalities/text/tokenizers`), the needs (`vlp/needs`),
  and the maths of the objectives (their own files and `vlp/objectives/functional`; not `base`, which all pass).
- Frames: the deepest stack of Python functions of `vlp/`, `Loader.__iter__` or `TrainStep.forward` being the first.
  `nn.Module`'s own frames are torch's, and not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import vlp
from tests import ROOT
from vlp.train.recipe import load_recipe
from vlp.train.setup import build, open_data

MOST_FILES, MOST_FRAMES = 20, 16

ENTRANCES = ("Loader.__iter__", "TrainStep.forward")
PACKAGE = str(Path(vlp.__file__).parent) + "/"
TINY = (
    *("data.batch_size=8", "data.workers=0", "image.size=32", "tokenizer.vocab_size=200", "tokenizer.length=48"),
    "model.image.width=8",
)


def family(file: str) -> str:
    """Return what a file counts as: itself, or the family of plug-ins that it is of."""
    folder, _, name = file.rpartition("/")
    if folder == "models/towers" or file == "models/heads.py":
        return "models/towers"
    if folder in ("needs", "modalities/text/tokenizers"):
        return folder
    if folder == "objectives/functional" or (folder == "objectives" and name != "base.py"):
        return "objectives/functional"
    return file


class Way:
    """A profile function that notes which of our files are passed, and the deepest stack, below the entrances."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.deepest: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        stack: list[str] = []
        below: FrameType | None = frame
        while below is not None:
            if below.f_code.co_filename.startswith(PACKAGE):
                stack.append(f"{below.f_code.co_filename.removeprefix(PACKAGE)}: {below.f_code.co_qualname}")
                if below.f_code.co_qualname in ENTRANCES:
                    self.files.add(family(frame.f_code.co_filename.removeprefix(PACKAGE)))
                    self.deepest = max(self.deepest, stack[::-1], key=len)
                    return
            below = below.f_back


@pytest.fixture(scope="module")
def ways(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Way]:
    """The ways of the second and the third batch."""
    folder = tmp_path_factory.mktemp("way")
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml", [f"data.train={shards}", f"out={folder}", *TINY])
    recipe.folder.mkdir()
    components = build(recipe, recipe.folder, open_data(recipe))
    batches, ways = iter(components.loader), [Way(), Way(), Way()]
    for way in ways:
        sys.setprofile(way)
        try:
            batch = next(batches)
            components.engine.forward(batch, 0.5)
        finally:
            sys.setprofile(None)
    return ways[1:]


def test_a_sample_passes_few_files(ways: list[Way]) -> None:
    files = ways[0].files & ways[1].files
    assert len(files) <= MOST_FILES, sorted(files)


def test_a_sample_passes_few_frames(ways: list[Way]) -> None:
    deepest = max((way.deepest for way in ways), key=len)
    assert len(deepest) <= MOST_FRAMES, deepest
