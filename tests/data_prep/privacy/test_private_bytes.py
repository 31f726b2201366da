"""A name that stands anywhere in a file but in its pixels is in no stored byte; `vlp-prep scan` finds it in others' files."""

import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.data_prep.sources import trees
from vlp.modalities.image.decode import ImageError, besides_pixels, decode
from vlp_prep.cli import main
from vlp_prep.images.store import ImageOptions, store_image

NAME = b"Anna Muster ZZ-0001"
RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))


def encoded(form: str, pixels: np.ndarray = RAMP, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def scans(data: bytes) -> list[int]:
    """Where the segments behind the first scan of a JPEG begin."""
    first = data.find(b"\xff\xda")
    return [
        at for at in range(first + 2, len(data) - 1) if data[at] == 0xFF and data[at + 1] not in (0, *range(0xD0, 0xD8))
    ]


def png(rows: bytes, before: bytes = b"", kind: int = 0, more: bytes = b"", end: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, kind, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(rows, 0) + more)
    return b"\x89PNG\r\n\x1a\n" + header + before + packed + chunk(b"IEND", end)


def files() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x010E] = NAME.decode()
    jpeg, slow = encoded("JPEG"), encoded("JPEG", progressive=True)
    named = encoded("JPEG", exif=exif)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Patient", NAME.decode())
    rows = b"".join(b"\0" + row.tobytes() for row in RAMP)
    grey = encoded("PNG")
    palette = Image.fromarray(RAMP).convert("P")
    palette.putpalette(list(range(256)) * 2 + list((NAME * 20)[:256]))
    indexed = io.BytesIO()
    palette.point(lambda value: value // 64).save(indexed, "PNG")
    table = jpeg.find(b"\xff\xdb")
    found = {
        "exif.jpg": named,
        "comment.jpg": jpeg[:2] + segment(0xFE, NAME) + jpeg[2:],
        "icc.jpg": encoded("JPEG", icc_profile=NAME * 20),
        "xmp.jpg": encoded("JPEG", xmp=b"<x>" + NAME + b"</x>"),
        "thumbnail.jpg": jpeg[:2] + segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\5\5" + (NAME * 9)[:75]) + jpeg[20:],
        "private_app0.jpg": jpeg[:20] + segment(0xE0, b"AVI1" + NAME) + jpeg[20:],
        "app11.jpg": jpeg[:20] + segment(0xEB, NAME) + jpeg[20:],
        "adobe_with_more.jpg": jpeg[:20] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + NAME) + jpeg[20:],
        "unused_table.jpg": jpeg[:table] + segment(0xDB, b"\3" + (NAME * 4)[:64]) + jpeg[table:],
        "behind_the_end.jpg": jpeg + NAME,
        "second_picture.jpg": jpeg + named,
        "comment_behind_the_scan.jpg": jpeg[:-2] + segment(0xFE, NAME) + jpeg[-2:],
        "within_the_scan.jpg": jpeg[:-2] + NAME + jpeg[-2:],
        "itxt.png": encoded("PNG", pnginfo=info),
        "exif.png": encoded("PNG", exif=exif),
        "private.png": png(rows, chunk(b"prVt", NAME)),
        "palette_not_used.png": png(rows, chunk(b"PLTE", (NAME * 8)[:96]), kind=0),
        "palette.png": indexed.getvalue(),
        "behind_the_stream.png": png(rows, more=NAME),
        "more_rows.png": png(rows + b"\0" + (NAME * 4)[:64]),
        "data_behind_the_end.png": grey + chunk(b"IDAT", NAME),
        "in_the_end.png": png(rows, end=NAME),
        "comment.gif": encoded("GIF", comment=NAME),
        "tag.tif": encoded("TIFF", description=NAME.decode()),
        "exif.webp": encoded("WEBP", exif=exif),
    }
    for number, at in enumerate(scans(slow)):
        found[f"comment_{number}_between_scans.jpg"] = slow[:at] + segment(0xFE, NAME) + slow[at:]
        found[f"bytes_{number}_between_scans.jpg"] = slow[:at] + NAME + slow[at:]
        found[f"app_{number}_between_scans.jpg"] = slow[:at] + segment(0xED, NAME) + slow[at:]
    return found


@pytest.mark.parametrize("name", files())
def test_no_byte_of_a_stored_file_is_anything_but_pixels(name: str) -> None:
    data = files()[name]
    assert NAME[:8] in data or name in ("itxt.png",)
    try:
        stored = store_image(data, ImageOptions())
    except ImageError:
        assert "bytes" in name or "within" in name  # what stands in a scan cannot be told from it: not stored at all
        return
    for word in NAME.split():
        assert word not in stored.data
    assert besides_pixels(stored.data) == []
    assert np.array_equal(decode(stored.data, 1), decode(data, 1)) or not name.endswith((".jpg", ".png"))


@pytest.mark.parametrize("pixels", [RAMP, np.dstack([RAMP, RAMP.T, RAMP])])
def test_a_file_with_nothing_but_pixels_keeps_its_bytes(pixels: np.ndarray) -> None:
    options = ({}, {"progressive": True}, {"restart_marker_blocks": 4}, {"optimize": True})
    for data in (*(encoded("JPEG", pixels, **more) for more in options), encoded("PNG", pixels)):
        assert besides_pixels(data) == [] and store_image(data, ImageOptions()).data == data


def test_scan_says_what_the_files_hold_besides_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = files()
    kept = {name: data for name, data in found.items() if name.endswith((".jpg", ".png")) and name != "palette.png"}
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "of-another-tool.tar", "w") as tar:
        for number, data in enumerate([*kept.values(), encoded("JPEG"), encoded("PNG")]):
            ending = "png" if data.startswith(b"\x89PNG") else "jpg"
            for name, content in ((f"k{number}.{ending}", data), (f"k{number}.txt", b"Clear.")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert main(["index", str(tmp_path / "set")]) == 0
    assert main(["scan", str(tmp_path / "set"), "--out", str(tmp_path / "found.jsonl")]) == 1
    said = capsys.readouterr().out
    for kind in ("comment", "Exif", "thumbnail", "APP13", "bytes behind the end", "iTXt chunk", "prVt chunk"):
        assert f"{kind} (file)" in said
    keys = {json.loads(line)["key"] for line in (tmp_path / "found.jsonl").read_text().splitlines()}
    assert keys == {f"k{number}" for number in range(len(kept))}


def test_a_key_file_is_its_owners_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, key = trees.pairs(tmp_path / "raw", 3), tmp_path / "key"
    words = ["build", "pairs", "--raw", str(raw), "--ids", "hash", "--key-file", str(key), "--split", "none", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 2 and "vlp-prep key" in capsys.readouterr().err
    assert main(["key", str(key)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_text().strip()) == 64
    assert main(["key", str(key)]) == 2  # an existing key is never replaced
    assert main([*words, str(tmp_path / "a")]) == 0
    for mode in (0o640, 0o604, 0o644):
        key.chmod(mode)
        capsys.readouterr()
        assert main([*words, str(tmp_path / "b")]) == 2
        assert "chmod 600" in capsys.readouterr().err and not (tmp_path / "b" / "manifest.jsonl").exists()
    key.unlink()
    os.mkfifo(key)
    assert main([*words, str(tmp_path / "b")]) == 2 and "FIFO" in capsys.readouterr().err
