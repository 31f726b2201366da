"""One decoder: a file means the same when it is stored, when a model sees it, and in numpy, whatever its format says."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vlp.modalities.image.decode import (
    ImageError,
    decode,
    decode_file,
    decode_mask,
    decode_opened,
    image_size,
)
from vlp_prep.images.store import ImageOptions, store_image

RAMP = np.add.outer(np.arange(40, dtype=np.uint8), np.arange(60, dtype=np.uint8) * 3)
COLOUR = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
DEEP = RAMP.astype(np.uint16) * 13 + 100  # 12 bits


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels: np.ndarray, extra: bytes = b"", kind: int = 0, bits: int = 16) -> bytes:
    """Write a PNG by the standard, with chunks of one's own before the pixels."""
    rows = pixels.astype(">u2") if bits == 16 else pixels
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, kind, 0, 0, 0)
    pixels_chunk = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels_chunk + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, photometric: int = 1, **more: int) -> bytes:
    kind, data = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind], pixels.tobytes()
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: pixels.itemsize * 8, 259: 1, 262: photometric, 273: 8}
    tags |= {277: 1, 278: pixels.shape[0], 279: len(data), 339: kind} | {int(tag[1:]): v for tag, v in more.items()}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + table + bytes(4)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def on_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(colours.astype(float) * alpha[..., None] / 255).astype(np.uint8)


ALPHA = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
SIGNED = RAMP.astype("<i2") * 10 - 800
FLOAT = RAMP.astype("<f4") / 100
BROKEN = FLOAT.copy()
BROKEN[0, :3] = np.nan, np.inf, -np.inf
KEYED = np.where(RAMP[5, 5] == RAMP, 0, RAMP)
DEEP_COLOUR = COLOUR.astype(np.uint16) * 16
FINITE = np.nan_to_num(BROKEN, nan=0, posinf=9, neginf=-9)


def exact() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files without loss, and what numpy makes of their values."""
    bits = (RAMP > 90).astype(np.uint8)
    palette = Image.fromarray(COLOUR).quantize(32)
    in_palette = io.BytesIO()
    palette.save(in_palette, "PNG")
    deep = scaled(DEEP, 0, 4095)
    return {
        "grey.png": (encoded(RAMP), RAMP),
        "colour.png": (encoded(COLOUR), COLOUR),
        "deep.png": (encoded(DEEP), deep),
        "shallow_deep.png": (encoded(RAMP.astype(np.uint16)), RAMP),
        "deep_colour.png": (deep_colour_png(), scaled(DEEP_COLOUR, 0, 4095)),
        "bit.png": (encoded(bits.astype(bool)), bits * 255),
        "palette.png": (in_palette.getvalue(), np.asarray(palette.convert("RGB"))),
        "alpha.png": (encoded(np.dstack([COLOUR, ALPHA])), on_black(COLOUR, ALPHA)),
        "grey_alpha.png": (encoded(np.dstack([RAMP, ALPHA])), on_black(RAMP[..., None], ALPHA)[..., 0]),
        "key.png": (png(RAMP, chunk(b"tRNS", struct.pack(">H", int(RAMP[5, 5]))), bits=8), KEYED),
        "deep_key.png": (
            png(DEEP, chunk(b"tRNS", struct.pack(">H", int(DEEP[5, 5])))),
            np.where(DEEP[5, 5] == DEEP, 0, deep),
        ),
        "deep.tif": (tiff(DEEP.astype("<u2")), deep),
        "signed.tif": (tiff(SIGNED), scaled(SIGNED, SIGNED.min(), SIGNED.max())),
        "float.tif": (tiff(FLOAT), scaled(FLOAT, FLOAT.min(), FLOAT.max())),
        "broken.tif": (tiff(BROKEN), np.where(np.isnan(BROKEN), 0, scaled(FINITE, FLOAT[1:].min(), FLOAT.max()))),
        "white_is_zero.tif": (tiff(255 - RAMP, 0), RAMP),
        "white_is_zero_deep.tif": (tiff((4095 - DEEP).astype("<u2"), 0), 255 - scaled(4095 - DEEP, 0, 4095)),
        "white_is_zero_float.tif": (tiff(-FLOAT, 0), 255 - scaled(-FLOAT, -FLOAT.max(), -FLOAT.min())),
        "pages.tif": (pages("TIFF"), RAMP),
        "frames.gif": (pages("GIF"), RAMP),
        "frames.png": (pages("PNG"), RAMP),
        "lossless.webp": (encoded(COLOUR, "WEBP", lossless=True), COLOUR),
        "clear.webp": (encoded(np.dstack([COLOUR, ALPHA]), "WEBP", lossless=True, exact=True), on_black(COLOUR, ALPHA)),
        "grey.bmp": (encoded(RAMP, "BMP"), RAMP),
        "grey.pgm": (encoded(RAMP, "PPM"), RAMP),
        "grey.jp2": (encoded(RAMP, "JPEG2000"), RAMP),
        "deep.jp2": (encoded(DEEP, "JPEG2000"), deep),
        "behind.png": (encoded(RAMP) + b"bytes behind the end", RAMP),
    }


def deep_colour_png() -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP_COLOUR)
    header = struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pages(form: str) -> bytes:
    file = io.BytesIO()
    other = [Image.fromarray(255 - RAMP), Image.fromarray(RAMP[::-1].copy())]
    Image.fromarray(RAMP).save(file, form, save_all=True, append_images=other)
    return file.getvalue()


@pytest.mark.parametrize("name", exact())
def test_a_file_means_the_same_to_numpy_a_model_and_a_shard(name: str) -> None:
    data, expected = exact()[name]
    assert np.abs(decode_file(data).pixels.astype(int) - expected).max() <= 1
    assert image_size(data) == expected.shape[:2]
    stored = store_image(data, ImageOptions(format="png"))
    for channels in (1, 3):
        assert np.array_equal(decode(data, channels), decode(stored.data, channels))
    with Image.open(io.BytesIO(data)) as image:
        if not (name.startswith("deep_colour") or name == "deep_key.png"):  # Pillow itself cuts those to 8 bits
            assert np.array_equal(decode_opened(image).pixels, decode_file(data).pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_seen_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    data = encoded(COLOUR, form, exif=exif, **options)
    tagged = Image.fromarray(COLOUR)
    tagged.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    assert image_size(data) == expected.shape[:2]
    for found in (decode(data, 3), decode(store_image(data, ImageOptions(format="png")).data, 3)):
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 2


def test_the_orientation_of_xmp_and_of_deep_files_counts() -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(encoded(RAMP, "JPEG", xmp=packet), 1).shape == (60, 40)
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(DEEP, "PNG", exif=exif)
    assert np.array_equal(decode(data, 1), np.rot90(scaled(DEEP, 0, 4095)))


def test_cmyk_and_less_chroma_than_luma() -> None:
    for data in (encoded(COLOUR, "JPEG", quality=95, subsampling=2), cmyk(COLOUR)):
        found = decode(data, 3).astype(int)
        assert np.abs(found - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).mean() < 3
        again = decode(store_image(data, ImageOptions(format="png")).data, 3)
        assert np.array_equal(again, found)


def cmyk(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(file, "JPEG", quality=95)
    return file.getvalue()


def test_a_mask_is_what_is_not_black_whatever_its_depth() -> None:
    inside = RAMP > 100
    palette = Image.fromarray(inside.astype(np.uint8))
    palette.putpalette([0, 0, 0, 0, 0, 1] + [0] * 762)
    file = io.BytesIO()
    palette.save(file, "PNG")
    masks = [encoded(inside), encoded(inside.astype(np.uint8)), encoded(inside.astype(np.uint16)), file.getvalue()]
    masks.append(encoded(np.dstack([np.full((40, 60, 3), 255, np.uint8), inside.astype(np.uint8) * 255])))
    for mask in masks:
        assert np.array_equal(decode_mask(mask), inside)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) show\nshowpage\n"
REFUSED = {
    "eps": EPS,
    "eps_with_a_preview": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS,
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(100),
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
    "emf": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60),
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "xpm": b"/* XPM */\nstatic char *a[] = {",
    "pdf": b"%PDF-1.4\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "html": b"<html>not found</html>",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_formats_off_the_list_are_refused_whatever_the_file_is_called(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    for read in (lambda data: decode(data, 1), lambda data: store_image(data, ImageOptions()), image_size, decode_mask):
        with pytest.raises(ImageError, match="format that is read"):
            read(REFUSED[kind])
    path = tmp_path / "scan.jpg"
    path.write_bytes(REFUSED[kind])
    with pytest.raises(ImageError):
        store_image(path, ImageOptions())


def bomb(form: str) -> bytes:
    """A file of a few bytes whose header says 60,000 x 60,000."""
    side = 60_000
    if form == "png":
        data = bytearray(encoded(RAMP))
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "jpeg":
        data = bytearray(encoded(RAMP, "JPEG"))
        at = data.find(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif form == "jp2":
        data = bytearray(encoded(RAMP, "JPEG2000", no_jp2=True))
        at = data.find(b"\xff\x51")
        data[at + 6 : at + 14] = struct.pack(">II", side, side)
    elif form == "bmp":
        data = bytearray(encoded(RAMP, "BMP"))
        data[18:26] = struct.pack("<ii", side, side)
    elif form == "tiff":
        data = bytearray(tiff(RAMP, t256=side, t257=side))
    else:
        data = bytearray(tiff(RAMP, t322=side, t323=side, t324=8, t325=RAMP.size))  # a small image in a huge tile
    return bytes(data)


@pytest.mark.parametrize("form", ["png", "jpeg", "jp2", "bmp", "tiff", "tile"])
def test_bombs_are_refused_on_their_header(form: str) -> None:
    import tracemalloc

    tracemalloc.start()
    for read in (lambda data: decode(data, 1), lambda data: store_image(data, ImageOptions())):
        with pytest.raises(ImageError) as error:
            read(bomb(form))
        assert error.value.reason == "image_too_large"
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_shrunk_jpeg_that_is_turned_is_shrunk_along_its_own_sides() -> None:
    from vlp.modalities.image.processor import Augment, ImageProcessor
    from vlp.modalities.image.spec import ImageSpec

    exif = Image.Exif()
    exif[0x0112] = 6
    big = cv2.resize(RAMP, (600, 400))
    preprocess = ImageProcessor(ImageSpec(size=64, channels=1))
    assert preprocess.read_reduced(encoded(big, "JPEG", exif=exif), Augment()).shape == (75, 50)
