"""Decoding that costs less: grey images stay grey until the end, `decode: fast` shrinks a JPEG while it is decoded."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import SHARED_DATA
from vlp.data.loader import DataConfig, Loader
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.processor import Augment, ImageProcessor, coverage, resize
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.sample import Report, Sample
from vlp_prep.pipeline.shard_writer import ShardWriter

DATA = SHARED_DATA / "covid_cxr" / "images"
EVERYTHING = Augment(
    crop_scale=(0.6, 1.2),
    shift=0.1,
    rotate=10,
    brightness=0.2,
    contrast=0.2,
    gamma=0.2,
    noise=0.05,
    blur=1.0,
    flip=True,
)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92)
    return buffer.getvalue()


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    error = np.square(found.astype(float) - expected).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(60, 80), (301, 200), (1, 1), (448, 448), (37, 500)])
def test_a_grey_image_gets_its_channels_last_with_the_same_result(
    kind: str, interpolation: str, shape: tuple[int, int]
) -> None:
    for how in ("pad", "crop", "squash"):
        preprocess = ImageProcessor(ImageSpec(size=112, channels=3, resize=how, interpolation=interpolation))  # type: ignore[arg-type]
        grey = preprocess.read(encoded(smooth(*shape), kind))
        assert grey.shape == shape
        colours = np.repeat(grey[..., None], 3, axis=2)
        seen = [preprocess.train(pixels, EVERYTHING, np.random.default_rng(3))[0] for pixels in (grey, colours)]
        for one, other in ([preprocess.eval(pixels)[0] for pixels in (grey, colours)], seen):
            assert tuple(one.shape) == (3, 112, 112)
            apart = (one.int() - other.int()).abs()  # an area's mean between two values may fall to either
            assert apart.max() <= (4 if interpolation == "area" else 0) and (apart > 0).sum() <= 0.001 * apart.numel()


sides = st.integers(1, 600)


@settings(max_examples=60, deadline=None)
@given(
    height=sides,
    width=sides,
    size=st.sampled_from([32, 96, 224]),
    resize=st.sampled_from(["pad", "crop", "squash"]),
    least=st.sampled_from([None, 0.25, 0.81]),
)
def test_an_image_is_shrunk_as_far_as_the_input_allows_and_no_further(
    height: int, width: int, size: int, resize: str, least: float | None
) -> None:
    preprocess = ImageProcessor(ImageSpec(size=size, channels=1, resize=resize))  # type: ignore[arg-type]
    augment = Augment(crop_scale=(least, 1.0)) if least else Augment()
    found = preprocess.read_reduced(encoded(smooth(height, width)), augment).shape
    wanted = [
        side * scale / (least or 1) ** 0.5
        for side, scale in zip((height, width), preprocess.geometry(height, width).scale, strict=True)
    ]
    enough = [by for by in (1, 2, 4, 8) if by == 1 or (-(-height // by) >= wanted[0] and -(-width // by) >= wanted[1])]
    assert found == (-(-height // max(enough)), -(-width // max(enough)))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, rows=sides, columns=sides, seed=st.integers(0, 99))
def test_area_is_the_mean_rounded_as_opencvs_is(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    new = min(height, rows), min(width, columns)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    expected = cv2.resize(pixels, new[::-1], interpolation=cv2.INTER_AREA)
    found = resize(pixels, *new, "area")
    assert found.shape == new and found.dtype == np.uint8
    exact = mean_along(mean_along(pixels.astype(float), new[0]).T, new[1]).T
    assert np.abs(found - exact).max() <= 0.5 + 1e-4 and np.abs(expected - exact).max() <= 0.5 + 1e-4


def mean_along(values: np.ndarray, rows: int) -> np.ndarray:
    """The mean of the length that each of fewer rows covers, from sums up to its two edges."""
    sums = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, 0)])
    edges = np.linspace(0, len(values), rows + 1)
    upto = np.stack([np.interp(edges, np.arange(len(sums)), column) for column in sums.T], 1)
    return np.diff(upto, axis=0) * rows / len(values)


def test_coverage_is_a_mean() -> None:
    for old, new in ((512, 224), (7, 7), (9, 4), (1000, 1), (223, 222)):
        shares = coverage(old, new).toarray()
        assert np.allclose(shares.sum(1), 1) and np.allclose(shares.sum(0), new / old)


def test_what_is_seen_hardly_changes() -> None:
    preprocess = ImageProcessor(ImageSpec(size=96))
    for seed in range(5):
        data = encoded(smooth(400, 512, seed))
        full, fast = preprocess.read(data), preprocess.read_reduced(data, Augment())
        assert full.shape == (400, 512) and fast.shape == (100, 128)
        assert psnr(preprocess.eval(fast)[0].numpy(), preprocess.eval(full)[0].numpy()) > 38


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_radiographs_keep_thirty_seven_decibel() -> None:
    preprocess = ImageProcessor(ImageSpec(channels=1))
    found = []
    for path in sorted(DATA.iterdir())[::25]:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        data = encoded(cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA))
        fast = preprocess.read_reduced(data, Augment())
        assert fast.shape == (256, 256)
        found.append(psnr(preprocess.eval(fast)[0].numpy(), preprocess.eval(preprocess.read(data))[0].numpy()))
    assert np.median(found) > 37


def test_only_jpeg_is_shrunk_colours_stay_and_damage_is_found() -> None:
    preprocess = ImageProcessor(ImageSpec(size=32))
    colours = np.dstack([smooth(128, 128, seed) for seed in range(3)])
    assert preprocess.read_reduced(encoded(colours), Augment()).shape == (32, 32, 3)
    assert preprocess.read_reduced(encoded(colours, "PNG"), Augment()).shape == (128, 128, 3)
    with pytest.raises(ImageError):
        preprocess.read_reduced(encoded(colours)[:300], Augment())
    with pytest.raises(ImageError, match="the limit is 99"):
        ImageProcessor(ImageSpec(size=8, max_pixels=99)).read_reduced(encoded(colours), Augment())


def test_fast_decoding_is_for_training_alone(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", shard_size=8) as writer:
        for index in range(24):
            split = "train" if index < 16 else "val"
            writer.write(Sample(f"k{index}", encoded(smooth(128, 128, index)), Report("clear lungs"), split=split))
    preprocess = ImageProcessor(ImageSpec(size=32, channels=1))
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", length=16, vocab_size=50), ["clear lungs"])

    def batch(decode: str, split: str) -> np.ndarray:
        config = DataConfig(train=str(tmp_path / "set"), batch_size=8, workers=0, decode=decode)  # type: ignore[arg-type]
        loader = Loader(config, preprocess, tokenizer, split=split)
        return next(iter(loader) if split == "train" else loader.once()).image.numpy()

    assert (batch("fast", "val") == batch("full", "val")).all()
    fast, full = batch("fast", "train"), batch("full", "train")
    assert (fast != full).any() and psnr(fast, full) > 30
