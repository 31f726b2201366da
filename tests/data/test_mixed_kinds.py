"""Images and volumes in one stream: batches of one kind, an order of numbers alone, everything read once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.toys import make_sample, make_scan
from tests.train.volumes import write_scans
from vlp.batch import Batch
from vlp.core.config import ConfigError
from vlp.data.config import SourceConfig
from vlp.data.loader import DataConfig, Loader
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Picture
from vlp.modalities.volume.windows import Windows
from vlp_prep.pipeline.shard_writer import ShardWriter

IMAGE = ImageSpec(size=24, channels=1)
SPEC = VolumeSpec(spacing=(12, 12, 12), size=(20, 24, 24), windows=("lung", "bone"), image=IMAGE)
Make = Callable[..., Loader]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """24 volumes and 20 images."""
    folder = tmp_path_factory.mktemp("kinds")
    with ShardWriter(folder / "flat", shard_size=8, source="toy", version="1") as writer:
        for index in range(20):
            writer.write(replace(make_sample(index), split="train"))
    return write_scans(folder / "ct"), folder / "flat"


@pytest.fixture
def make(sets: tuple[Path, Path], tokenizer: Tokenizer) -> Make:
    def build(spec: Any = SPEC, rank: int = 0, world: int = 1, **options: Any) -> Loader:
        sources = tuple(SourceConfig(path=str(path)) for path in sets)
        config = DataConfig(**{"train": sources, "batch_size": 8, "workers": 0, **options})
        processor = VolumeProcessor(spec) if isinstance(spec, VolumeSpec) else ImageProcessor(spec)
        return Loader(config, processor, tokenizer, rank=rank, world=world)

    return build


def take(loader: Loader, count: int) -> list[Batch]:
    return list(itertools.islice(iter(loader), count))


def test_a_batch_is_of_one_kind_and_ranks_and_resuming_change_nothing(make: Make) -> None:
    whole = take(make(), 12)
    shapes = [tuple(batch.image.shape[1:]) for batch in whole]
    assert set(shapes) == {(1, 20, 24, 24), (1, 1, 24, 24)} and 2 <= shapes.count((1, 1, 24, 24)) <= 10
    assert all((batch.image.dtype == torch.uint8) is (batch.image.shape[2] == 1) for batch in whole)
    assert all(len(set(batch.sources)) == 1 for batch in whole)
    halves = [take(make(rank=rank, world=2), 4) for rank in range(2)]
    for batch, first, second in zip(whole, *halves, strict=False):
        assert batch.keys == first.keys + second.keys
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))
    again, loader = make(workers=1), make()
    take(loader, 5)
    again.load_state(loader.state())
    assert [batch.keys for batch in take(again, 3)] == [batch.keys for batch in whole[5:8]]
    with pytest.raises(
        ConfigError, match=r"images and volumes together, the order depends on data\.batch_size, which was 8"
    ):
        make(batch_size=4).load_state(loader.state())


def test_reading_once_cuts_batches_where_the_kind_changes(make: Make) -> None:
    batches = list(make(batch_size=16).once())
    assert [len(batch) for batch in batches] == [16, 8, 16, 4]
    assert len({key for batch in batches for key in batch.keys}) == 44
    halves = [list(make(batch_size=16, rank=rank, world=2).once()) for rank in range(2)]
    assert [len(batch) for batch in halves[0]] == [8, 4, 8, 2]


def test_what_the_model_does_not_read_is_refused_before_the_first_step(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"toy holds images, and the recipe's model reads volumes.*`volume\.image`"):
        make(replace(SPEC, image=None))
    with pytest.raises(ConfigError, match="synthetic_ct holds volumes, and the recipe's model reads images"):
        make(IMAGE)


def test_an_image_among_volumes_is_rejected_and_counted(
    tmp_path: Path, sets: tuple[Path, Path], tokenizer: Tokenizer
) -> None:
    with ShardWriter(tmp_path / "both", source="both", version="1") as writer:
        for index in range(12):
            writer.write(make_scan(index))
        writer.write(replace(make_sample(0), split=None))
    config = DataConfig(train=str(tmp_path / "both"), batch_size=4, workers=0, max_rejected=0.2)
    loader = Loader(config, VolumeProcessor(SPEC), tokenizer)
    take(loader, 5)
    assert ["not of the kind of the first sample of its set, volume" in why for why in loader.rejected.values()] == [
        True
    ]


def test_a_picture_is_read_as_the_image_it_is(tmp_path: Path) -> None:
    processor, flat = VolumeProcessor(SPEC), ImageProcessor(IMAGE)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    values, geometry = processor.eval(Picture.of(pixels))
    expected, placed = flat.eval(pixels)
    assert torch.equal(values, expected[:, None]) and geometry == placed
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for item in (pixels, tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(pixels)):
        assert torch.equal(processor.eval(processor.native(item))[0], values)
    assert processor.geometry(*processor.extent(Picture.of(pixels))) == placed
    normalised = Windows(replace(SPEC, image=replace(IMAGE, mean=(0.4,), std=(0.2,))))(values[None])
    torch.testing.assert_close(normalised, ((expected / 255 - 0.4) / 0.2)[None, :, None].expand(-1, 2, -1, -1, -1))
    with pytest.raises(ValueError, match="volumes and images in one batch"):
        processor.collate([values, processor.example()[0]])


def test_the_fingerprint_of_volumes_alone_is_what_it_was(tmp_path: Path) -> None:
    alone, both = (VolumeProcessor(spec) for spec in (replace(SPEC, image=None), SPEC))
    assert alone.fingerprint == "2b00f3a0234507d0"
    assert alone.fingerprint != both.fingerprint
    both.save(tmp_path)
    assert VolumeProcessor.load(tmp_path).spec == SPEC


def test_an_image_of_another_size_or_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image\.size must be the height and width of size \(20, 24, 24\), found 32"):
        replace(SPEC, image=ImageSpec(size=32, channels=1))
    with pytest.raises(ValueError, match=r"image\.channels must be 1 or that of the windows, 2: 3"):
        replace(SPEC, image=ImageSpec(size=24, channels=3))
