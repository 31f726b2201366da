"""What reading costs, counted instead of timed: decodes, tokeniser calls, reads, and what a batch's pixels are kept as."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from tests.data.toys import FINDINGS, make_sample
from vlp.batch import PromptSpec
from vlp.data.config import TextView
from vlp.data.loader import DataConfig, Loader
from vlp.modalities.image.processor import Augment, ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.tokenizers.base import Encoded, Tokenizer
from vlp_prep.pipeline.shard_writer import ShardWriter

ROWS, BATCHES, SIDE = 8, 5, 64
AUGMENT = Augment(shift=0.1, brightness=0.2, noise=0.05, blur=1.0, rotate=5, crop_scale=(0.8, 1.0))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 samples, grey and coloured, half of them JPEG and half PNG."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("mixed") / "set"
    with ShardWriter(folder, shard_size=16) as writer:
        for index in range(48):
            pixels = np.random.default_rng(index).integers(0, 256, (200, 160, 3)[: 2 + index // 2 % 2]).astype(np.uint8)
            data = cv2.imencode(".jpg" if index % 2 else ".png", pixels)[1].tobytes()
            writer.write(replace(make_sample(index), image=data))
    return folder


def open_loader(shards: Path, tokenizer: Tokenizer, *needs: str, **options: Any) -> Loader:
    config = DataConfig(train=str(shards), batch_size=ROWS, workers=0, augment=AUGMENT, labels=FINDINGS, **options)
    prompts = PromptSpec(FINDINGS, FINDINGS, tuple(f"no {one}" for one in FINDINGS)) if "prompts" in needs else None
    return Loader(config, ImageProcessor(ImageSpec(size=SIDE)), tokenizer, frozenset(needs), prompts)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the calls of every decoder there is, and of reads."""
    counts: Counter[str] = Counter()

    def count(module: Any, name: str, kind: str) -> None:
        whole = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            counts[kind] += 1
            return whole(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapped)

    count(simplejpeg, "decode_jpeg", "decode")
    count(cv2, "imdecode", "decode")
    count(Image, "open", "decode")
    count(os, "pread", "read")
    return counts


@pytest.mark.parametrize("decode", ["full", "fast"])
def test_each_sample_is_read_once_and_decoded_once(
    mixed: Path, tokenizer: Tokenizer, counted: Counter[str], decode: str
) -> None:
    loader = open_loader(mixed, tokenizer, "spans", "phrases", "prompts", "labels", decode=decode)
    counted.clear()
    batches = list(itertools.islice(loader, BATCHES))
    assert sum(map(len, batches)) == ROWS * BATCHES
    assert counted == {"decode": ROWS * BATCHES, "read": ROWS * BATCHES}


class Calls:
    """A tokeniser that notes how many texts it is given at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.sizes = tokenizer, list[int]()

    def __call__(self, texts: Sequence[str]) -> Encoded:
        self.sizes.append(len(texts))
        return self.tokenizer(texts)


@pytest.mark.parametrize("needs", [(), ("spans", "phrases", "prompts", "labels"), ("phrases", "text_view")])
def test_a_batch_is_tokenised_in_one_call(mixed: Path, tokenizer: Tokenizer, needs: tuple[str, ...]) -> None:
    loader = open_loader(mixed, tokenizer, *needs, text=TextView(subset=0.5))
    noted = Calls(tokenizer)
    loader.collator.tokenizer = noted  # type: ignore[assignment]
    for number in range(1, BATCHES + 1):
        next(iter(loader))
        assert len(noted.sizes) == number and min(noted.sizes) >= ROWS


class Floats(TorchDispatchMode):
    """Notes the shapes of the floating tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if torch.is_tensor(one) and one.is_floating_point():
                self.shapes.append(tuple(one.shape))
        return made


def test_pixels_are_bytes_until_the_model_has_the_batch(mixed: Path, tokenizer: Tokenizer) -> None:
    loader = open_loader(mixed, tokenizer, "spans", "labels")
    with Floats() as noted:
        batch = next(iter(loader))
        for place in range(3):
            sample = loader.stream.sources[0].shards.sample(place)  # type: ignore[union-attr]
            assert loader.collator.decode(sample, seed=1).image.dtype == torch.uint8
    assert noted.shapes == []
    assert batch.image.dtype == torch.uint8 and batch.image.shape == (ROWS, 3, SIDE, SIDE)
    assert batch.image.untyped_storage().nbytes() == ROWS * 3 * SIDE * SIDE
