"""Manifests, random access, other people's shards, and what verify finds."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.data.toys import make_sample, write_set
from vlp.core.config import ConfigError
from vlp.data.shards.manifest import Manifest, ManifestError
from vlp.data.shards.sample_io import SampleError, decode_sample
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.tar_index import scan_tar, split_name
from vlp.data.shards.verify import index_folder, verify


def encoded(value: int = 0, form: str = "PNG", size: tuple[int, int] = (6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_samples_by_number(toy: Path) -> None:
    shards = ShardSet(Manifest.read(toy).select("train"))
    assert len(shards) == 60
    for index in (59, 0, 31, 7, 6):
        expected = make_sample(index)
        found = shards.sample(index)
        assert shards.key(index) == found.key == expected.key
        assert isinstance(found.image, bytes)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.image))), expected.image)
        assert (found.report, found.concepts, found.study) == (expected.report, expected.concepts, expected.study)
        assert shards.record(index).report == expected.report and shards.record(index).image == b""
    for index in (-1, 60):
        with pytest.raises(IndexError):
            shards.sample(index)


def test_splits(toy: Path) -> None:
    manifest = Manifest.read(toy)
    assert (manifest.splits, len(manifest)) == (["train", "val"], 71)
    assert manifest.select(None) is manifest
    assert [ShardSet(manifest.select("val")).key(i) for i in range(11)] == [f"s{i:06d}" for i in range(60, 71)]
    with pytest.raises(ConfigError, match=r"no split 'trian': did you mean 'train'\?"):
        manifest.select("trian")


def test_the_digest_is_of_the_content(new_set: Callable[..., Path]) -> None:
    one, same, more = (Manifest.read(new_set(n=n)) for n in (20, 20, 21))
    assert one.digest == same.digest != more.digest
    assert one.digest == Manifest.read(one.path).digest
    assert one.digest != Manifest(one.base, one.path, one.shards[::-1], one._lines[::-1]).digest


def test_one_read_per_sample(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet(Manifest.read(toy))
    reads = []
    real = os.pread

    def counted(handle: int, size: int, offset: int) -> bytes:
        reads.append(size)
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    for index in range(20):
        shards.sample(index)
    assert len(reads) == 20


def test_open_files_are_bounded(new_set: Callable[..., Path]) -> None:
    shards = ShardSet(Manifest.read(new_set(n=30, shard_size=1)), max_open_files=4)
    before = len(os.listdir("/proc/self/fd"))
    for index in range(30):
        shards.sample(index)
    assert len(os.listdir("/proc/self/fd")) - before == 4
    shards.sample(0)
    del shards
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "no manifest.jsonl and no"),
        (lambda path: (path.mkdir(), write_tar(path / "x.tar", [])), "run `vlp-prep index"),
        (lambda path: (path.mkdir(), (path / "manifest.jsonl").write_text("")), "lists no shards"),
        (lambda path: (path.mkdir(), (path / "manifest.jsonl").write_text("{]")), ":1: not JSON"),
        (lambda path: (path.mkdir(), (path / "manifest.jsonl").write_text('{"shard": "x.tar"}')), "samples"),
        (
            lambda path: (
                path.mkdir(),
                (path / "manifest.jsonl").write_text(
                    '{"shard": "../x.tar", "samples": 1, "bytes": 1, "sha256": "", "keys": ["a"], "members": {}}'
                ),
            ),
            "unsafe shard name",
        ),
    ],
)
def test_broken_manifests_say_what_and_where(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "set")
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.read(tmp_path / "set")
    assert str(tmp_path / "set") in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_in_another_order_of_fields_is_read_too(toy: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (toy / "manifest.jsonl").read_text().splitlines()]
    text = "\n".join(json.dumps(dict(reversed(one.items()))) for one in lines)
    (tmp_path / "manifest.jsonl").write_text(text)
    for path in toy.glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    assert ShardSet(Manifest.read(tmp_path)).sample(12) == ShardSet(Manifest.read(toy)).sample(12)


def test_a_manifest_that_changes_in_use_is_noticed(new_set: Callable[..., Path]) -> None:
    out = new_set(n=20)
    manifest = Manifest.read(out)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[::-1]))
    with pytest.raises(ManifestError, match=r"changed|columns|not JSON"):
        manifest.key(0)


# --- other people's shards


def test_shards_of_webdatasets_own_writer(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=3, verbose=0) as sink:
        for index in range(7):
            sink.write(
                {
                    "__key__": f"dir.with.dots/k{index}",
                    "jpg": np.full((9, 8, 3), index * 9, np.uint8),
                    "json": {"caption": f"caption {index}", "study_id": index // 2, "key": "not ours"},
                    "cls": index,
                }
            )
    manifest = index_folder(tmp_path, source="theirs", version="9")
    assert (len(manifest), manifest.splits, manifest.shards[0].source) == (7, ["train"], "theirs")
    shards = ShardSet(manifest)
    sample = shards.sample(4)
    assert (sample.key, sample.captions, sample.study) == ("dir.with.dots/k4", ("caption 4",), "2")
    assert sample.source == "theirs"
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "report", "captions"),
    [
        ({"txt": b" a text "}, "a text", ()),
        ({"caption": b"a caption"}, None, ("a caption",)),
        ({"json": b'{"report": "r", "caption": "c"}'}, "r", ("c",)),
        ({"json": b'{"text": "t"}'}, "t", ()),
        ({"json": b'{"findings": "F one.", "impression": "I two."}'}, "F one. I two.", ()),
        ({"json": b'{"captions": ["x", "y"]}', "txt": b"t"}, "t", ("x", "y")),
        ({"json": b'{"report": {"text": "abc", "sections": {"findings": [0, 2]}}}'}, "abc", ()),
        ({"json": b'["not", "a", "mapping"]', "txt": b"t"}, "t", ()),
        ({}, None, ()),
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "png", "jpeg", "JPG", "image.png"])
def test_texts_wherever_they_are(
    tmp_path: Path, extension: str, fields: dict[str, bytes], report: str | None, captions: tuple[str, ...]
) -> None:
    image = encoded(5, "PNG" if extension.lower().endswith("png") else "JPEG")
    write_tar(tmp_path / "x.tar", [(f"k.{extension}", image), *((f"k.{name}", data) for name, data in fields.items())])
    sample = ShardSet(index_folder(tmp_path)).sample(0)
    assert (sample.report.text if sample.report else None, sample.captions) == (report, captions)
    assert sample.image == image
    if report == "F one. I two." and sample.report:
        assert (sample.report.findings, sample.report.impression) == ("F one.", "I two.")


def test_keys_split_as_webdataset_splits_them(tmp_path: Path) -> None:
    from webdataset.tariterators import base_plus_ext

    for name in ("a.jpg", "a.b.jpg", "d.e/a.jpg", "d/e.f/a.b.c", "noext", "d.x/noext", "./a.jpg", ".hidden", "a."):
        theirs = base_plus_ext(name)
        assert split_name(name) == (None if theirs[0] is None else (theirs[0], theirs[1].lower())), name
    assert split_name("x/._a.jpg") is None  # where webdataset makes a key "x/" of what macOS leaves in folders
    names = ["x.y/a.jpg", "x.y/a.txt", "x.y/b.jpg", "x.y/b.txt", "z/a.jpg", "z/a.txt"]
    path = write_tar(
        tmp_path / "x.tar", [(name, encoded(1, "JPEG") if name.endswith("jpg") else b"t") for name in names]
    )
    theirs_keys = [one["__key__"] for one in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert [entry.key for entry in scan_tar(path)] == theirs_keys == ["x.y/a", "x.y/b", "z/a"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_each_form_of_tar(tmp_path: Path, form: int) -> None:
    parts = ("d" * 90, "k" * 60) if form == tarfile.USTAR_FORMAT else ("d" * 200, "ü" * 150)
    key = "/".join(parts)
    write_tar(tmp_path / "x.tar", [(f"{key}.png", encoded(9)), (f"{key}.txt", b"hello")], form)
    sample = ShardSet(index_folder(tmp_path)).sample(0)
    assert (sample.key, sample.image) == (key, encoded(9))


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "a\\..\\evil.png"])
def test_a_member_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "x.tar", [("good.png", encoded()), (name, encoded())])
    with pytest.raises(ManifestError, match="climbs out"):
        index_folder(tmp_path)


def test_only_regular_members_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("k.png", tarfile.SYMTYPE), ("p.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("good.png")
        info.size = len(encoded())
        tar.addfile(info, io.BytesIO(encoded()))
    assert [ShardSet(index_folder(tmp_path)).key(i) for i in range(1)] == ["good"]
    assert "passed over 2 members (not a regular file)" in caplog.text


def test_samples_without_image_or_with_broken_json_are_reported(tmp_path: Path) -> None:
    members = [("a.txt", b"no image"), ("b.png", encoded()), ("b.json", b"{"), ("c.png", encoded()), ("c.txt", b"x")]
    write_tar(tmp_path / "x.tar", members)
    said: list[str] = []
    manifest = index_folder(tmp_path, progress=said.append)
    assert [ShardSet(manifest).key(i) for i in range(len(manifest))] == ["c"]
    assert len(said) == 1 and "1 samples, 2 left out" in said[0]


@pytest.mark.parametrize(
    "record",
    [
        b'{"labels": {"impression": "There is a nodule."}}',
        b'{"report": {"said": "There is a nodule."}}',
        b'{"boxes": ["There is a nodule."]}',
        b'{"concepts": [{"There is a nodule.": 1}]}',
        b'{"report": "There is a nodule." oops}',
    ],
)
def test_a_record_that_is_wrong_is_refused_without_its_text(record: bytes) -> None:
    with pytest.raises(SampleError, match=r"x\.tar: the \w+ of key 'k'") as caught:
        decode_sample("k", {"png": encoded(), "json": record}, "x.tar")
    assert "nodule" not in str(caught.value)


def test_keys_with_dots_and_keys_used_twice_are_errors(tmp_path: Path) -> None:
    uids = [(f"1.2.840.{index}.png", encoded()) for index in range(100)]
    write_tar(tmp_path / "x.tar", uids)
    with pytest.raises(ManifestError, match="dot"):
        index_folder(tmp_path)
    for name in ("x.tar", "y.tar"):
        write_tar(tmp_path / name, [("k.png", encoded())])
    with pytest.raises(ManifestError, match=r"'k' is also in x\.tar"):
        index_folder(tmp_path)


@pytest.mark.parametrize("cut", [300, 1000, 2000])
def test_a_cut_or_foreign_file_is_not_indexed(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "x.tar", [(f"k{i}.png", encoded()) for i in range(3)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ManifestError, match=r"x\.tar"):
        index_folder(tmp_path)


def test_indexing_our_own_shards_again_gives_the_same_manifest(new_set: Callable[..., Path]) -> None:
    out = new_set(n=20, val=5)
    before = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").unlink()
    index_folder(out, source="toy", version="1")
    assert (out / "manifest.jsonl").read_text() == before


# --- verify


def test_a_sound_set_has_no_problems(toy: Path) -> None:
    assert verify(toy) == []


@pytest.mark.parametrize("extension", ["png", "json"])
def test_one_flipped_bit_is_found_with_its_key(new_set: Callable[..., Path], extension: str) -> None:
    out = new_set(n=20)
    manifest = Manifest.read(out)
    offset, size = manifest.columns(1).members(3)[extension]
    path = out / manifest.shards[1].shard
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 4
    path.write_bytes(content)
    problems = verify(out, decode=False)
    assert [(one.shard, one.key) for one in problems] == [("train-000001.tar", "s000010")]
    assert "bytes differ" in str(problems[0])


def test_a_flipped_byte_between_samples_is_found(new_set: Callable[..., Path]) -> None:
    out = new_set(n=7)
    path = out / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    assert [(one.shard, one.key) for one in verify(out)] == [("train-000000.tar", None)]


def test_a_truncated_and_a_missing_shard_are_found(new_set: Callable[..., Path]) -> None:
    out = new_set(n=21)
    path = out / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (out / "train-000002.tar").unlink()
    problems = verify(out)
    assert {one.shard for one in problems} == {"train-000001.tar", "train-000002.tar"}
    assert "s000013" in {one.key for one in problems}
    with pytest.raises(SampleError, match="s000013"):
        ShardSet(Manifest.read(out)).sample(13)
    with pytest.raises(OSError):
        ShardSet(Manifest.read(out)).sample(14)


def test_wrong_counts_are_found(new_set: Callable[..., Path]) -> None:
    out = new_set(n=7)
    line = json.loads((out / "manifest.jsonl").read_text())
    line["samples"] = 6
    for name in ("keys", "chars", "crc32"):
        line[name] = line[name][:6]
    line["members"] = {name: [offsets[:6], sizes[:6]] for name, (offsets, sizes) in line["members"].items()}
    (out / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    assert "holds 7 samples, the manifest lists 6" in str(verify(out)[0])
    line["samples"] = 9
    (out / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    assert "says 9 samples and lists 6" in str(verify(out)[0])


def test_an_image_that_does_not_decode_is_found_with_its_key(tmp_path: Path) -> None:
    good = encoded(3, "JPEG", (40, 40))
    write_tar(tmp_path / "x.tar", [("a.jpg", good), ("b.jpg", good[:100]), ("c.png", encoded()[:-20])])
    index_folder(tmp_path)
    assert [(one.shard, one.key) for one in verify(tmp_path)] == [("x.tar", "b"), ("x.tar", "c")]
    assert verify(tmp_path, decode=False) == []


def test_problems_are_limited(new_set: Callable[..., Path]) -> None:
    out = new_set(n=60)
    for path in out.glob("*.tar"):
        path.unlink()
    assert len(verify(out, limit=3)) == 3


# --- size


def test_opening_reads_headers_only_and_keeps_few_columns(tmp_path: Path) -> None:
    out = write_set(tmp_path / "set", n=200, shard_size=2)
    manifest = Manifest.read(out)
    assert not manifest._parsed
    for index in range(0, 200, 2):
        manifest.key(index)
    assert len(manifest._parsed) == 64
