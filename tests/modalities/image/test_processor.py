"""Decoding against Pillow, geometry against planted squares and ramps, resizing against torchvision."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import SHARED_DATA
from vlp.batch import Grid
from vlp.core.config import ConfigError
from vlp.modalities.geometry import Geometry, resample_grid
from vlp.modalities.image.decode import decode
from vlp.modalities.image.errors import ImageError
from vlp.modalities.image.processor import Augment, ImageProcessor
from vlp.modalities.image.spec import ImageSpec

DATA = SHARED_DATA / "covid_cxr" / "images"


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 100 * np.sin((x + y) / 9)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_decoding_agrees_with_pillow(kind: str, channels: int) -> None:
    data = encoded(Image.fromarray(picture()), kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
    found = decode(data, channels)
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= (6 if kind == "JPEG" else 1)


def test_palette_transparency_and_cmyk_are_converted() -> None:
    colours = Image.fromarray(picture())
    palette = colours.convert("P")
    assert np.array_equal(decode(encoded(palette, "PNG"), 3), np.asarray(palette.convert("RGB")))
    clear = np.dstack([np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4), np.uint8)])
    clear[:, :2, 3] = 255
    found = decode(encoded(Image.fromarray(clear), "PNG"), 1)
    assert (found[:, :2] == 200).all() and (found[:, 2:] == 0).all()
    assert decode(encoded(Image.new("LA", (3, 3), (90, 0)), "PNG"), 3).max() == 0
    cmyk = encoded(colours.convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(cmyk, 3).astype(int) - picture()).mean() < 6


@pytest.mark.parametrize(("top", "expected"), [(255, 255), (4095, 255), (65535, 255), (2048, 128)])
def test_sixteen_bits_are_scaled_by_the_depth_in_use(top: int, expected: int) -> None:
    ramp = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
    found = decode(encoded(Image.fromarray(ramp), "PNG"), 1)
    assert found.max() == expected and (np.diff(found.ravel().astype(int)) >= 0).all()
    assert decode(encoded(Image.fromarray(ramp), "PNG"), 3).shape == (8, 8, 3)


def test_an_image_is_turned_as_its_orientation_tag_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG"):
        data = encoded(Image.fromarray(picture(40, 80)), kind, exif=exif)
        assert decode(data, 1).shape == (80, 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_too_many_pixels_are_refused_before_decoding(kind: str) -> None:
    data = encoded(Image.new("L", (50, 50)), kind)
    with pytest.raises(ImageError, match="50 x 50 pixels, the limit is 2499"):
        decode(data, 1, max_pixels=2499)
    assert decode(data, 1, max_pixels=2500).shape == (50, 50)


def test_a_decompression_bomb_costs_nothing() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 20
    with pytest.raises(ImageError, match="limit"):
        decode(data, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_damaged_data_is_an_error_never_a_grey_image(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)], 1)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_real_radiographs_decode_as_pillow_does() -> None:
    for path in sorted(DATA.iterdir())[::25]:
        data = path.read_bytes()
        expected = np.asarray(Image.open(path).convert("L")).astype(int)
        found = decode(data, 1)
        assert found.shape == expected.shape and np.abs(found - expected).mean() < 1.0, path.name


sides = st.integers(1, 400)
specs = st.builds(
    ImageSpec,
    size=st.sampled_from([16, 33, 96, 224]),
    channels=st.just(1),
    resize=st.sampled_from(["pad", "crop", "squash"]),
    interpolation=st.sampled_from(["area", "bilinear"]),
    crop_share=st.sampled_from([1.0, 0.875]),
)


@settings(max_examples=60, deadline=None)
@given(spec=specs, height=sides, width=sides)
def test_boxes_return_through_the_inverse_and_any_shape_is_taken(spec: ImageSpec, height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 50:
        return
    preprocess = ImageProcessor(spec)
    geometry = preprocess.geometry(height, width)
    box = (0.3 * width, 0.1 * height, 0.9 * width, 0.7 * height)
    assert geometry.box_to_source(geometry.box_to_input(box)) == pytest.approx(box)
    image, found = preprocess.eval(np.full((height, width), 77, np.uint8))
    assert tuple(image.shape) == (1, spec.size, spec.size) and found == geometry
    x1, y1, x2, y2 = (round(edge) for edge in geometry.content)
    assert (image[0, y1:y2, x1:x2] == 77).all()
    outside = image[0].clone()
    outside[y1:y2, x1:x2] = 0
    assert not outside.any()


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["pad", "crop", "squash"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (90, 90)])
def test_a_planted_square_lands_where_the_geometry_says(
    resize: str, shape: tuple[int, int], interpolation: str
) -> None:
    preprocess = ImageProcessor(ImageSpec(size=96, channels=1, resize=resize, interpolation=interpolation))  # type: ignore[arg-type]
    pixels = np.zeros(shape, np.uint8)
    y, x = shape[0] // 2 - 10, shape[1] // 2 + 5
    pixels[y : y + 20, x : x + 20] = 255
    weight = preprocess.eval(pixels)[0][0].numpy().astype(float)
    rows, columns = np.mgrid[:96, :96] + 0.5
    centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    x1, y1, x2, y2 = preprocess.geometry(*shape).box_to_input((x, y, x + 20, y + 20))
    assert centre == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.05)


@pytest.mark.parametrize("resize", ["pad", "squash", "crop"])
@pytest.mark.parametrize("shape", [(150, 100), (70, 200), (96, 96)])
def test_a_ramp_on_the_input_is_the_same_ramp_on_the_image(resize: str, shape: tuple[int, int]) -> None:
    geometry = ImageProcessor(ImageSpec(size=96, channels=1, resize=resize)).geometry(*shape)  # type: ignore[arg-type]
    rows, columns = np.mgrid[:96, :96] + 0.5
    found = geometry.map_to_source(2 * columns - 3 * rows)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    (sy, sx), (ty, tx) = geometry.scale, geometry.offset
    at_x, at_y = x * sx + tx, y * sy + ty
    seen = (at_x >= 0) & (at_x <= 96) & (at_y >= 0) & (at_y <= 96)
    assert np.array_equal(np.isnan(found), ~seen)
    x1, y1, x2, y2 = geometry.content
    expected = 2 * np.clip(at_x, x1 + 0.5, x2 - 0.5) - 3 * np.clip(at_y, y1 + 0.5, y2 - 0.5)
    assert np.allclose(found[seen], expected[seen], atol=1e-3)
    assert seen.all() == (resize != "crop" or shape[0] == shape[1])


def test_padding_does_not_bleed_into_the_map() -> None:
    geometry = ImageProcessor(ImageSpec(size=64, channels=1)).geometry(100, 50)
    values = np.full((64, 64), 1e6)
    values[:, 16:48] = 1.0
    assert (geometry.map_to_source(values) == 1.0).all()
    with pytest.raises(ValueError, match="64 x 64"):
        geometry.map_to_source(np.zeros((63, 64)))


@settings(max_examples=30, deadline=None)
@given(stride=st.sampled_from([4.0, 7.5, 16.0, 32.0]), offset=st.floats(0, 16), cells=st.integers(1, 12))
def test_cells_are_spread_from_their_true_centres(stride: float, offset: float, cells: int) -> None:
    grid = Grid((cells, cells), (stride, stride), (offset, offset))
    centres = offset + stride * np.arange(cells)
    values = np.add.outer(10 * centres, centres)
    pixels = np.clip(np.arange(96) + 0.5, centres[0], centres[-1])
    assert np.allclose(resample_grid(values, grid, (96, 96)), np.add.outer(10 * pixels, pixels), rtol=1e-4, atol=1e-2)


def test_bicubic_is_what_open_clip_and_timm_do() -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

    bicubic = InterpolationMode.BICUBIC
    for shape in ((300, 233), (101, 350)):
        pixels = cv2.resize(picture(), shape[::-1])
        for crop_share, resized in ((1.0, 64), (0.875, 73)):
            spec = ImageSpec(size=64, channels=3, resize="crop", interpolation="bicubic", crop_share=crop_share)
            expected = Compose([Resize(resized, bicubic), CenterCrop(64), PILToTensor()])(Image.fromarray(pixels))
            assert (ImageProcessor(spec).eval(pixels)[0] == expected).all()
    squash = ImageProcessor(ImageSpec(size=64, channels=3, resize="squash", interpolation="bicubic"))
    expected = Compose([Resize((64, 64), bicubic), PILToTensor()])(Image.fromarray(pixels))
    assert (squash.eval(pixels)[0] == expected).all()


EVERYTHING = Augment(
    crop_scale=(0.6, 1.2), shift=0.1, rotate=10, brightness=0.2, contrast=0.2, gamma=0.2, noise=0.05, blur=1.0
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(60, 80), (200, 40), (1, 1)])
def test_augmentation_is_drawn_from_the_generator_alone(shape: tuple[int, int], channels: int) -> None:
    preprocess = ImageProcessor(ImageSpec(size=48, channels=channels))  # type: ignore[arg-type]
    pixels = np.ascontiguousarray(picture(*shape))
    first, again, other = (preprocess.train(pixels, EVERYTHING, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert tuple(first.shape) == (channels, 48, 48) and (first == again).all() and not (first == other).all()
    plain, _ = preprocess.train(pixels, Augment(), np.random.default_rng(0))
    assert (plain == preprocess.eval(pixels)[0]).all()


def test_augmentation_never_mirrors_unless_told() -> None:
    preprocess = ImageProcessor(ImageSpec(size=64, channels=1))
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:44, :20] = 255
    sides = {
        flip: {
            int(image[0, :, :32].float().sum() > image[0, :, 32:].float().sum())
            for seed in range(40)
            for image, _ in [
                preprocess.train(pixels, Augment(rotate=10, shift=0.1, flip=flip), np.random.default_rng(seed))
            ]
        }
        for flip in (False, True)
    }
    assert sides == {False: {1}, True: {0, 1}}


def test_shift_moves_by_at_most_what_was_said() -> None:
    preprocess = ImageProcessor(ImageSpec(size=64, channels=1))
    pixels = np.zeros((128, 128), np.uint8)
    pixels[54:74, 54:74] = 255
    rows, columns = np.mgrid[:64, :64] + 0.5
    centres = []
    for seed in range(60):
        image = preprocess.train(pixels, Augment(shift=0.1), np.random.default_rng(seed))[0][0].numpy().astype(float)
        centres.append([(rows * image).sum() / image.sum() - 32, (columns * image).sum() / image.sum() - 32])
    moves = np.abs(centres)
    assert moves.max() <= 6.4 + 0.6 and moves.max() > 5


def test_the_spec_travels_and_its_fingerprint_tells_changes(tmp_path: Path) -> None:
    spec = ImageSpec(size=96, channels=1, mean=(0.4,), std=(0.2,))
    ImageProcessor(spec).save(tmp_path)
    loaded = ImageProcessor.load(tmp_path)
    assert loaded.spec == spec and loaded.fingerprint == ImageProcessor(spec).fingerprint
    assert pickle.loads(pickle.dumps(loaded)).spec == spec
    prints = {
        ImageProcessor(ImageSpec(size=size, interpolation=how)).fingerprint
        for size in (96, 97)
        for how in ("area", "bicubic")
    }
    assert len(prints) == 4
    assert ImageProcessor(ImageSpec(max_pixels=5)).fingerprint == ImageProcessor(ImageSpec()).fingerprint
    (tmp_path / "preprocess.json").write_text('{"version": 1, "sise": 3}')
    with pytest.raises(ConfigError, match=r"preprocess\.json\.sise'?: did you mean 'size'"):
        ImageProcessor.load(tmp_path)
    (tmp_path / "preprocess.json").unlink()
    with pytest.raises(ConfigError, match=r"preprocess\.json"):
        ImageProcessor.load(tmp_path)


def test_content_is_the_part_of_the_input_that_shows_the_image() -> None:
    geometry = ImageProcessor(ImageSpec(size=96, channels=1)).geometry(200, 100)
    assert isinstance(geometry, Geometry) and geometry.content == (24, 0, 72, 96)
