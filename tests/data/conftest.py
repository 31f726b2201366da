"""Small sets of shards with known content for the tests of the data path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from vlp_prep.writer import ShardWriter

from vlp.preprocess import ImageSpec, Preprocess
from vlp.tokenize import TextSpec, Tokenizer, build_tokenizer
from vlp.types import Mention, Report, Sample

FINDINGS = ("effusion", "nodule", "edema")


def make_sample(index: int, split: str | None = "train", size: int = 12) -> Sample:
    """Return sample `index`: its image encodes the index in its pixels, its report names one finding as present."""
    finding, other = FINDINGS[index % 3], FINDINGS[(index + 1) % 3]
    parts = [f"There is {finding} on the left.", f"No {other}.", f"Study number {index}."]
    text = " ".join(parts[: 2 + index % 2])
    spans, at = [], 0
    for part in parts[: 2 + index % 2]:
        spans.append((at, at + len(part)))
        at += len(part) + 1
    start = text.index(finding)
    concepts = (
        Mention(finding, finding, start, start + len(finding), "present", side="left"),
        Mention(other, other, text.index(other), text.index(other) + len(other), "absent"),
    )
    pixels = np.full((size, size), index % 251, np.uint8)
    pixels[0, :8] = [(index >> bit & 1) * 255 for bit in range(8)]
    return Sample(
        key=f"s{index:06d}",
        image=pixels,
        report=Report(text, tuple(spans)),
        study=f"study{index // 2}",
        concepts=concepts,
        labels={finding: 1, other: 0},
        split=split,
        source="toy",
    )


def write_set(out: Path, n: int = 60, shard_size: int = 7, val: int = 0) -> Path:
    with ShardWriter(out, shard_size=shard_size, source="toy", version="1") as writer:
        for index in range(n):
            writer.write(make_sample(index))
        for index in range(n, n + val):
            writer.write(make_sample(index, split="val"))
    return out


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training samples in 9 shards, 11 validation samples in 2."""
    return write_set(tmp_path_factory.mktemp("toy") / "shards", val=11)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [report.text for index in range(12) if (report := make_sample(index).report)]
    return build_tokenizer(TextSpec(kind="wordpiece", length=64, vocab_size=120), texts)


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return Preprocess(ImageSpec(size=12, channels=1))


@pytest.fixture
def new_set(tmp_path: Path) -> Callable[..., Path]:
    counter = iter(range(100))

    def make(**options: int) -> Path:
        return write_set(tmp_path / f"set{next(counter)}", **options)

    return make
