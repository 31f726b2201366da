"""Bad input of every kind: a reason in rejected.jsonl or a clear error, the run goes on, and nothing is lost silently."""

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.images.test_dicom import phantom, saved
from tests.data_prep.sources import trees
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import verify
from vlp.sample import Sample
from vlp_prep.cli import main


def bad_images() -> dict[str, tuple[bytes, str]]:
    """Return file name to its bytes and what becomes of it: a reason, or the step that puts it right."""
    whole = trees.encoded("JPEG", 1, height=200, width=200)
    deep = io.BytesIO()
    Image.fromarray((np.arange(48 * 40).reshape(40, 48) * 10).astype(np.uint16)).save(deep, "PNG")
    huge = bytearray(trees.encoded("PNG", 6))
    huge[16:24] = (30000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    huge_jpeg = bytearray(whole)
    at = huge_jpeg.find(b"\xff\xc0")
    huge_jpeg[at + 5 : at + 9] = (30000).to_bytes(2, "big") * 2
    bare = phantom(np.zeros((4, 4), np.uint16))
    del bare.PixelData
    return {
        "truncated.jpg": (whole[: len(whole) // 2], "image_truncated"),
        "truncated.png": (trees.encoded("PNG", 2)[:-200], "image_truncated"),
        "truncated.dcm": (saved(phantom(np.zeros((64, 64), np.uint16)))[:-1000], "image_truncated"),
        "zero.jpg": (b"", "image_empty"),
        "text.jpg": (b"<html>not found</html>", "image_unreadable"),
        "huge.png": (bytes(huge), "image_too_large"),
        "huge.jpg": (bytes(huge_jpeg), "image_too_large"),
        "no_pixels.dcm": (saved(bare), "image_no_pixels"),
        "cmyk.jpg": (trees.encoded("JPEG", 3, "CMYK"), "CMYK converted"),
        "palette.png": (trees.encoded("PNG", 4, "P"), "P converted"),
        "alpha.png": (trees.encoded("PNG", 4, "RGBA"), "transparency laid on black"),
        "deep.png": (deep.getvalue(), "more than 8 bits: 0..65535 scaled to 0..255"),
    }


def good_rows(raw: Path, n: int) -> list[dict[str, str]]:
    trees.picture(raw / "good.jpg", 1)
    return [{"key": f"good{number}", "image": "good.jpg", "report": "Clear lungs."} for number in range(n)]


def build(raw: Path, *words: object, code: int = 0, workers: int = 0) -> tuple[dict[str, Sample], list[dict[str, str]]]:
    """Build, and return what was written and what was rejected; every shard is sound, whatever the input."""
    out = raw.parent / "out"
    common = ["build", "pairs", "--raw", str(raw), "--out", str(out), "--split", "none", "--workers", str(workers)]
    assert main([*common, *map(str, words)]) == code
    shards = ShardSet(Manifest.read(out))
    assert verify(out) == []
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return {shards.key(index): shards.sample(index) for index in range(len(shards))}, lines


@pytest.mark.parametrize("name", bad_images())
def test_a_bad_image_is_rejected_with_its_reason_or_put_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    data, becomes = bad_images()[name]
    trees.put(raw / name, data)
    trees.table(raw / "pairs.csv", [*good_rows(raw, 3), {"key": "bad", "image": name, "report": "Clear lungs."}])
    if " " in becomes:  # a step: it is written
        found, rejected = build(raw)
        assert found["bad"].steps == (becomes,) and not rejected
        stored = Image.open(io.BytesIO(bytes(found["bad"].image)))  # type: ignore[arg-type]
        assert stored.mode in ("L", "RGB")
        assert "read 4 = written 4 + rejected 0" in capsys.readouterr().out
        return
    found, rejected = build(raw, code=2)  # a quarter is more than the default of one in a hundred
    said = capsys.readouterr()
    assert set(found) == {"good0", "good1", "good2"}
    assert [(line["key"], line["reason"]) for line in rejected] == [("bad", becomes)] and rejected[0]["detail"]
    assert f"read 4 = written 3 + rejected 1 ({becomes} 1)" in said.out
    assert "1 of 4 rejected, more than --max-rejected 0.01" in said.err


ROWS = {
    "leaves_raw": ({"image": "../outside.jpg"}, "outside_raw"),
    "absolute": ({"image": "/etc/hostname"}, "outside_raw"),
    "missing": ({"image": "gone.jpg"}, "image_missing"),
    "no_name": ({"image": ""}, "image_missing"),
    "not_a_number": ({"report": "nan"}, "no_text"),
    "empty_report": ({"report": " \n"}, "no_text"),
    "twice": ({"key": "good0"}, "duplicate_key"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_rejected_with_its_reason(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    cells, reason = ROWS[name]
    trees.picture(tmp_path / "outside.jpg", 5)
    row = {"key": "bad", "image": "good.jpg", "report": "Clear lungs.", **cells}
    trees.table(raw / "pairs.csv", [*good_rows(raw, 3), row])
    found, rejected = build(raw, "--max-rejected", 0.25)
    assert set(found) == {"good0", "good1", "good2"}
    assert [(line["key"], line["reason"]) for line in rejected] == [(row["key"], reason)] and rejected[0]["detail"]
    assert f"read 4 = written 3 + rejected 1 ({reason} 1)" in capsys.readouterr().out


def test_quotes_commas_and_line_breaks_in_a_table_are_text(tmp_path: Path) -> None:
    raw, text = tmp_path / "raw", 'A "quoted"\nline, with comma.'
    trees.table(raw / "pairs.csv", [*good_rows(raw, 1), {"key": "line", "image": "good.jpg", "report": text}])
    found, rejected = build(raw)
    assert found["line"].report is not None and found["line"].report.text == text and not rejected


def test_a_table_and_a_report_in_latin_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    trees.picture(raw / "a.jpg")
    trees.put(raw / "pairs.csv", b"image,report\na.jpg," + "Opacité".encode("latin-1"))
    words = ["build", "pairs", "--raw", str(raw), "--out", str(tmp_path / "out"), "--split", "none"]
    assert main(words) == 2  # a table cannot be read at all
    said = capsys.readouterr().err
    assert "is not utf-8 (byte 0xe9)" in said and "--encoding cp1252" in said and said.count("\n") == 1
    found, _ = build(raw, "--encoding", "latin-1")
    (one,) = found.values()
    assert one.report is not None and one.report.text == "Opacité"


def test_a_report_file_in_latin_1_is_one_reject_among_good_ones(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        trees.dicom(
            raw / f"{number}.dcm", SOPInstanceUID=f"1.2.{number}", PatientID="p", StudyInstanceUID=f"1.{number}"
        )
        text = "Opacité." if number == 1 else "Opacity."
        trees.put(raw / f"{number}.txt", text.encode("latin-1"))
    words = ["dicom_folder", "--raw", str(raw), "--out", str(out), "--reports", "sidecar", "--ids", "keep"]
    assert main(["build", *words, "--max-rejected", "0.4"]) == 0
    (line,) = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert line["reason"] == "text_encoding" and "not utf-8 at byte 6" in line["detail"]


def test_a_tar_member_that_leaves_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train-000000.tar", "w") as tar:
        for name, data in (("a.jpg", trees.encoded()), ("a.json", b"{}"), ("../evil.jpg", trees.encoded())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert main(["index", str(tmp_path / "set")]) == 2
    said = capsys.readouterr().err
    assert "../evil.jpg" in said and said.count("\n") == 1
    assert not (tmp_path / "set" / "manifest.jsonl").exists() and not (tmp_path / "evil.jpg").exists()


@pytest.mark.parametrize(("bad", "code"), [(1, 0), (2, 2)])
def test_the_default_limit_is_one_in_a_hundred(bad: int, code: int, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    rows = good_rows(raw, 100 - bad)
    rows += [{"key": f"bad{number}", "image": "gone.jpg", "report": "Clear lungs."} for number in range(bad)]
    trees.table(raw / "pairs.csv", rows)
    found, rejected = build(raw, code=code)
    assert (len(found), len(rejected)) == (100 - bad, bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_bad_at_once_adds_up(workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, rows = tmp_path / "raw", good_rows(tmp_path / "raw", 5)
    for name, (data, _) in bad_images().items():
        trees.put(raw / name, data)
        rows.append({"key": name.replace(".", "_"), "image": name, "report": "Clear lungs."})
    rows += [{"key": name, "image": "good.jpg", "report": "Clear lungs.", **cells} for name, (cells, _) in ROWS.items()]
    trees.table(raw / "pairs.csv", rows)
    found, rejected = build(raw, "--max-rejected", 1, "--shard-size", 4, workers=workers)
    assert len(found) + len(rejected) == len(rows)
    assert f"read {len(rows)} = written {len(found)} + rejected {len(rejected)}" in capsys.readouterr().out
    wanted = [becomes for _, becomes in bad_images().values() if " " not in becomes] + [one for _, one in ROWS.values()]
    assert sorted(line["reason"] for line in rejected) == sorted(wanted)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_bytes_are_kept_is_checked_as_strictly_as_one_that_is_decoded(
    mode: str, progressive: bool
) -> None:
    """Cut and flipped anywhere: what the quick check of coefficients lets through, a full strict decoder reads."""
    import simplejpeg

    from vlp.modalities.image.errors import ImageError
    from vlp_prep.images.store import ImageOptions, store_image

    whole = trees.encoded("JPEG", 3, mode, height=120, width=150, progressive=progressive, quality=85)
    rng = np.random.default_rng(0)
    damaged = [whole[: int(cut)] for cut in np.linspace(20, len(whole) - 1, 60)]
    for place in rng.integers(200, len(whole) - 2, 200):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        try:
            simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY")
            sound = True
        except ValueError:
            sound = False
        try:
            kept = store_image(data, ImageOptions()).shape[0] > 0
        except ImageError:
            kept = False
        assert kept <= sound
        refused += not kept
    assert refused >= 60
    assert store_image(whole, ImageOptions()).data == whole


def test_a_link_out_of_the_raw_folder_is_not_followed_unless_asked(tmp_path: Path) -> None:
    raw = trees.pairs(tmp_path / "raw", 3)
    secret = trees.picture(tmp_path / "secret.jpg", 99)
    (raw / "images" / "i1.jpg").unlink()
    (raw / "images" / "i1.jpg").symlink_to(secret)
    _, rejected = build(raw, "--max-rejected", 1)
    assert [(line["key"], line["reason"]) for line in rejected] == [("images_i1", "outside_raw")]
    _, rejected = build(raw, "--follow-links", "--overwrite")
    assert rejected == []
