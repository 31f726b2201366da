"""Fixtures of the data path's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.toys import make_sample, write_set
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import build_tokenizer


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training samples in 9 shards, 11 validation samples in 2."""
    return write_set(tmp_path_factory.mktemp("toy") / "shards", val=11)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [report.text for index in range(12) if (report := make_sample(index).report)]
    return build_tokenizer(TextSpec(kind="wordpiece", length=64, vocab_size=120), texts)


@pytest.fixture(scope="session")
def preprocess() -> ImageProcessor:
    return ImageProcessor(ImageSpec(size=12, channels=1))


@pytest.fixture
def new_set(tmp_path: Path) -> Callable[..., Path]:
    counter = iter(range(100))

    def make(**options: int) -> Path:
        return write_set(tmp_path / f"set{next(counter)}", **options)

    return make
