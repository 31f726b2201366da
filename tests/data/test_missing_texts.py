"""Images without a text, from shards to batches: counted from the manifest, marked in the batch, said, or refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.toys import make_sample
from vlp.core.config import ConfigError
from vlp.data.loader import DataConfig, Loader, LoaderError, open_stream
from vlp.data.stream import check_texts
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.sample import Report
from vlp_prep.pipeline.shard_writer import ShardWriter

Make = Callable[..., Loader]
BLANK = (None, Report(""), Report(" \n "))


def written(folder: Path, has_text: Callable[[int], bool], n: int = 16, val: int = 0) -> Path:
    with ShardWriter(folder, shard_size=5, source="toy", version="1") as writer:
        for index in range(n + val):
            sample = make_sample(index, split="train" if index < n else "val")
            bare = replace(sample, report=BLANK[index % 3], concepts=())
            writer.write(sample if has_text(index) else bare)
    return folder


@pytest.fixture
def make(preprocess: ImageProcessor, tokenizer: Tokenizer) -> Make:
    def build(folder: Path | str, rank: int = 0, world: int = 1, split: str = "train", **options: Any) -> Loader:
        config = DataConfig(**{"train": str(folder), "batch_size": 8, "workers": 0, **options})
        return Loader(config, preprocess, tokenizer, rank=rank, world=world, split=split)

    return build


def number(key: str) -> int:
    return int(key.removeprefix("s"))


def test_batches_say_which_rows_have_a_text(tmp_path: Path, make: Make) -> None:
    folder = written(tmp_path / "set", lambda index: index % 4 != 1, val=8)
    for split in ("train", "val"):
        loader = make(folder, split=split)
        batches = list(itertools.islice(iter(loader), 4) if split == "train" else loader.once())
        for batch in batches:
            assert batch.has_text == [number(key) % 4 != 1 for key in batch.keys]
            assert batch.texts == sum(batch.has_text) and len(batch) == 8
        assert sum(batch.texts for batch in batches) < 8 * len(batches)
    assert loader.stream.without_text == 2
    ranks = [next(iter(make(folder, rank=rank, world=2))) for rank in range(2)]
    assert ranks[0].keys + ranks[1].keys == next(iter(make(folder))).keys
    assert all(batch.has_text == [number(key) % 4 != 1 for key in batch.keys] for batch in ranks)


def test_a_set_with_all_texts_needs_no_marks(toy: Path, make: Make) -> None:
    """Nor an exchange between ranks of how many rows have one."""
    batch = next(iter(make(toy)))
    assert batch.has_text is None and batch.texts == 8


def test_one_text_less_sample_marks_every_batch_of_the_set(tmp_path: Path, make: Make) -> None:
    """Ranks without it must exchange their numbers as well."""
    loader = make(written(tmp_path / "set", lambda index: index != 3))
    assert [batch.has_text is None for batch in itertools.islice(iter(loader), 2)] == [False, False]


def test_what_is_missing_is_said_and_a_set_without_any_text_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stream(has_text: Callable[[int], bool], name: str) -> Any:
        config = DataConfig(train=str(written(tmp_path / name, has_text)), batch_size=8)
        return open_stream(config, 0, "train", 1)

    some = stream(lambda index: index < 5, "some")
    check_texts(some)
    assert "11 of 16 training samples have no text" in caplog.text
    assert "11 of 16 samples have no text" in some.describe(0, 1, 1)
    caplog.clear()
    check_texts(stream(lambda index: True, "all"))
    assert not caplog.text
    with pytest.raises(ConfigError, match=r"none of the 16 samples has a text.*json, png.*--text NAME"):
        check_texts(stream(lambda index: False, "none"))


def test_a_manifest_that_claims_texts_is_not_believed(tmp_path: Path, make: Make) -> None:
    """A text that is not there is no empty text."""
    folder = written(tmp_path / "set", lambda index: index % 2 == 0)
    path = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "texts": line["samples"]}) + "\n" for line in lines))
    with pytest.raises(LoaderError, match="8 of 16 samples are damaged"):
        list(itertools.islice(iter(make(folder, max_rejected=0.4)), 4))


def test_streams_that_cannot_seek(tmp_path: Path, make: Make) -> None:
    def pipe(name: str, has_text: Callable[[int], bool]) -> str:
        written(tmp_path / name, has_text)
        return f"pipe:cat {tmp_path / name}/train-{{000000..000003}}.tar"

    some = pipe("some", lambda index: index % 2 == 0)
    batch = next(iter(make(some)))
    assert batch.has_text == [number(key) % 2 == 0 for key in batch.keys]
    check_texts(open_stream(DataConfig(train=some, batch_size=8), 0, "train", 1))
    with pytest.raises(ConfigError, match=r"no.* text.*sort"):
        check_texts(
            open_stream(DataConfig(train=pipe("none", lambda _: False), batch_size=8, workers=0), 0, "train", 1)
        )
