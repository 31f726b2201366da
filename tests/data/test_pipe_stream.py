"""Streams that cannot seek: real shell pipes through webdataset, and what is still promised of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vlp.core.config import ConfigError
from vlp.data.loader import DataConfig, Loader, LoaderError, SourceConfig
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer


def build(
    toy: Path,
    preprocess: ImageProcessor,
    tokenizer: Tokenizer,
    last: int = 8,
    rank: int = 0,
    world: int = 1,
    **more: int,
) -> Loader:
    path = f"pipe:cat {toy}/train-{{000000..{last:06d}}}.tar"
    config = DataConfig(train=path, batch_size=12, **{"workers": 0, **more})  # type: ignore[arg-type]
    return Loader(config, preprocess, tokenizer, rank=rank, world=world)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 2)])
def test_all_ranks_get_full_batches_and_every_sample(
    toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer, world: int, workers: int
) -> None:
    keys = []
    for rank in range(world):
        batches = list(itertools.islice(build(toy, preprocess, tokenizer, rank=rank, world=world, workers=workers), 15))
        assert {len(batch) for batch in batches} == {12 // world}
        assert [batch.cursor for batch in batches] == [12 * (step + 1) for step in range(15)]
        keys.append({key for batch in batches for key in batch.keys})
    assert set().union(*keys) == {f"s{index:06d}" for index in range(60)}
    assert world == 1 or not keys[0] & keys[1]


def test_a_stream_goes_on_counting_and_says_what_it_cannot(
    toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    first = build(toy, preprocess, tokenizer)
    list(itertools.islice(first, 3))
    again = build(toy, preprocess, tokenizer)
    again.load_state(first.state())
    assert next(iter(again)).cursor == 48 and "may be repeated" in caplog.text
    with pytest.raises(ConfigError, match="training data"):
        build(toy, preprocess, tokenizer, last=7).load_state(first.state())
    with pytest.raises(ConfigError, match="no end"):
        next(first.once())
    assert "9 shards" in first.stream.describe(0, 2, 1) and len(list(first.stream.texts(7))) == 7


def test_too_few_shards_are_an_error_with_the_numbers(
    toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match=r"2 shards for 2 ranks with 2 workers each.* at least 4 shards"):
        build(toy, preprocess, tokenizer, last=1, world=2, workers=2)
    pipe = SourceConfig(path="pipe:cat x.tar")
    with pytest.raises(ConfigError, match="cannot be mixed"):
        Loader(DataConfig(train=(pipe, pipe), batch_size=2), preprocess, tokenizer)
    with pytest.raises(ConfigError, match="can seek"):
        Loader(DataConfig(train=str(toy), val="pipe:cat x.tar", batch_size=2), preprocess, tokenizer, split="val")


def test_members_of_a_stream_that_climb_out_are_not_read(
    toy: Path, tmp_path: Path, preprocess: ImageProcessor, tokenizer: Tokenizer
) -> None:
    import io
    import tarfile

    shards = ShardSet(Manifest.read(toy))
    image, record = shards.sample(0).image, b'{"caption": "A film."}'
    assert isinstance(image, bytes)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for key in ("../up", "/etc/up", "a/../../up", "good"):
            for ending, data in (("png", image), ("json", record)):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    config = DataConfig(train=f"pipe:cat {tmp_path}/x.tar", batch_size=3, workers=0)
    assert next(iter(Loader(config, preprocess, tokenizer))).keys == ["good"] * 3


def test_a_command_that_fails_is_an_end(toy: Path, preprocess: ImageProcessor, tokenizer: Tokenizer) -> None:
    config = DataConfig(train=f"pipe:cat {toy}/nothing.tar 2>/dev/null", batch_size=2, workers=0)
    with pytest.raises(LoaderError):
        next(iter(Loader(config, preprocess, tokenizer)))
