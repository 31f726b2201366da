"""`ShardWriter`, for all its callers: nothing but pixels is stored, and what is seen stays the same."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.shard_set import ShardSet
from vlp.modalities.image.decode import besides_pixels, decode, decode_mask
from vlp.sample import Sample
from vlp_prep.pipeline.shard_writer import ShardWriter

NAME = b"DOE^JANE 12345"
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)


def exif(turn: int) -> bytes:
    found = Image.Exif()
    found[0x010E], found[0x0112] = NAME.decode(), turn
    return found.tobytes()


def jpeg(turn: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif(turn), comment=NAME)
    return buffer.getvalue()


def png(turn: int = 1, mode: str = "L") -> bytes:
    words, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    words.add_text("Patient", NAME.decode())
    Image.fromarray(PIXELS).convert(mode).save(buffer, "PNG", exif=exif(turn), pnginfo=words)
    return buffer.getvalue()


FILES = {
    "jpeg": jpeg(1),
    "jpeg_turned": jpeg(6),
    "jpeg_behind_the_end": jpeg(1) + NAME,
    "png": png(),
    "png_turned": png(3),
    "png_palette": png(mode="P"),
    "png_behind_the_end": png() + NAME,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_path", [True, False])
def test_nothing_but_pixels_is_stored_and_they_stay(name: str, as_path: bool, tmp_path: Path) -> None:
    data = FILES[name]
    (tmp_path / "file").write_bytes(data)
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(Sample("a", tmp_path / "file" if as_path else data, masks={"m": png()}))
    sample = ShardSet(Manifest.read(tmp_path / "out")).sample(0)
    assert isinstance(sample.image, bytes) and not besides_pixels(sample.image)
    assert np.array_equal(decode(sample.image, 1), decode(data, 1))
    assert np.array_equal(decode_mask(sample.masks["m"]), decode_mask(png())) and not besides_pixels(sample.masks["m"])
    assert NAME not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_damaged_image_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="key 'a'"), ShardWriter(tmp_path / "out") as writer:
        writer.write(Sample("a", FILES["jpeg"][:-200]))
