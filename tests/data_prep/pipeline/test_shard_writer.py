"""The writer, read back by webdataset itself, by tarfile, and by ourselves."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.data_prep.pipeline import built
from vlp.core.config import ConfigError
from vlp.core.output import InUseError
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import SampleError
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import verify
from vlp.sample import Box, Mention, Report, Sample
from vlp_prep.pipeline.shard_file import write_shard
from vlp_prep.pipeline.shard_writer import ShardWriter


def png(value: int = 0, size: tuple[int, int] = (5, 4), mode: str = "L", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, form)
    return buffer.getvalue()


def rich(key: str = "a") -> Sample:
    return Sample(
        key=key,
        image=png(7),
        report=Report("Kleiner Erguss – rechts.", ((0, 24),), {"findings": (0, 24)}),
        captions=("x", "y"),
        study="st",
        patient="p",
        modality="CR",
        view="PA",
        labels={"effusion": 1, "nodule": -1},
        concepts=(Mention("Erguss", "effusion", 8, 14, "present", "right", None),),
        boxes=(Box("Erguss", (0.0, 1.0, 3.0, 4.0), "effusion"),),
        masks={"lung.left": png(255), "heart": png(1)},
        groups={"sex": "F"},
        split="train",
        source="src",
        licence="CC0-1.0",
        steps=("windowed",),
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(rich())
    assert ShardSet(Manifest.read(tmp_path / "out")).sample(0) == rich()
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    "key", ["a.b.c", "1.2.840.113619.2", "dir/sub/x", "../../etc/passwd", "/abs", "ü ñ", "k" * 180, "x%2Ey", "__m__"]
)
def test_any_key_is_one_safe_member_and_comes_back(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(rich("first"))
        writer.write(rich(key))
    shards = ShardSet(Manifest.read(tmp_path / "out"))
    assert (shards.key(1), shards.sample(1).key) == (key, key)
    assert shards.sample(1).masks == rich().masks
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 8 and not any(name.startswith("/") or ".." in name for name in names)
    samples = list(webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False))
    assert [json.loads(one["json"])["key"] for one in samples] == ["first", key]


def test_shards_are_plain_webdataset(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "out", shard_size=2) as writer:
        for index in range(5):
            writer.write(Sample(f"k{index}", np.full((3, 4, 3), index, np.uint8), Report(f"text {index}")))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["manifest.jsonl", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    urls = [str(tmp_path / "out" / name) for name in names[1:]]
    read = [
        (one["__key__"], one["json"]["report"]["text"], one["png"].tolist())
        for one in webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
    ]
    assert read == [(f"k{i}", f"text {i}", np.full((3, 4, 3), i).tolist()) for i in range(5)]


def test_equal_samples_give_equal_bytes_that_name_nobody(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with ShardWriter(tmp_path / name, shard_size=2, source="s", version="3") as writer:
            for index in range(3):
                writer.write(rich(f"k{index}"))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with tarfile.open(tmp_path / "one/train-000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_the_manifest_tells_where_the_bytes_are(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "out", shard_size=2, source="s", version="3") as writer:
        for index in range(3):
            writer.write(rich(f"k{index}"))
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [(one["shard"], one["samples"], one["split"], one["source"], one["version"]) for one in lines] == [
        ("train-000000.tar", 2, "train", "s", "3"),
        ("train-000001.tar", 1, "train", "s", "3"),
    ]
    for line in lines:
        raw = (tmp_path / "out" / line["shard"]).read_bytes()
        assert len(raw) == line["bytes"]
        with tarfile.open(tmp_path / "out" / line["shard"]) as tar:
            expected = {member.name: (member.offset_data, member.size) for member in tar}
        for extension, (offsets, sizes) in line["members"].items():
            for key, offset, size in zip(line["keys"], offsets, sizes, strict=True):
                assert expected[f"{key}.{extension}"] == (offset, size)


def test_splits_get_their_own_shards_and_a_size_limit_holds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with ShardWriter(tmp_path / "out", shard_bytes=20_000) as writer:
        for index in range(12):
            writer.write(Sample(f"k{index}", noise, split=("train", "test")[index % 2]))
    assert writer.counts == {"train": 6, "test": 6}
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.splits == ["test", "train"] and len(manifest.select("test")) == 6
    assert all(shard.bytes <= 20_480 for shard in manifest.shards) and len(manifest.shards) == 4


def test_bytes_of_a_jpeg_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "image.jpeg"
    path.write_bytes(png(3, (16, 16), form="JPEG"))
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(Sample("a", path))
    assert ShardSet(Manifest.read(tmp_path / "out")).sample(0).image == path.read_bytes()


def write_and_fail(out: Path, *keys: str) -> None:
    with ShardWriter(out, shard_size=1) as writer:
        for key in keys:
            writer.write(rich(key))
        raise RuntimeError("boom")


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        write_and_fail(tmp_path / "out", "a", "b")
    assert not (tmp_path / "out").exists()


def test_a_set_is_never_written_over_another_or_by_two(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ShardWriter(out, shard_size=1) as writer:
        writer.write(rich("a"))
        with pytest.raises(InUseError, match=f"is being written by pid {os.getpid()} on"):
            ShardWriter(out)
    with pytest.raises(ConfigError, match="already holds"):
        ShardWriter(out)
    (out / "manifest.jsonl").unlink()  # shards of others, not indexed yet
    with pytest.raises(ConfigError, match=r"already holds a set of shards \(train-000000.tar\)"):
        ShardWriter(out)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("", b"\xff\xd8\xff"), "without a key"),
        (Sample("a", b"GIF89a"), "neither JPEG nor PNG"),
        (Sample("a", np.zeros((2, 2), np.float32)), "float32"),
        (Sample("a", np.zeros((2, 2, 4), np.uint8)), r"\[2, 2, 4\]"),
        (Sample("a", png(), masks={"lung": b"zzz"}), "mask 'lung'"),
        (Sample("a", png(), split="../x"), "split"),
        (Sample("a", png(), labels={"x": float("nan")}), "JSON"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, sample: Sample, message: str) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(rich("good"))
        with pytest.raises(ValueError, match=message):
            writer.write(sample)
    assert len(Manifest.read(tmp_path / "out")) == 1


def test_a_key_is_used_once(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(rich("a"))
        with pytest.raises(ValueError, match="'a' was written before"):
            writer.write(rich("a"))


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no samples"), ShardWriter(tmp_path / "out"):
        pass


def test_one_shard_written_alone_equals_the_shard_of_the_build(tmp_path: Path) -> None:
    """`write_shard` gives the bytes and the manifest line of a build's own shard, and none for no samples."""
    built.build("synthetic", "--out", tmp_path / "set", "--n", 20, "--size", 32, "--shard-size", 8, "--workers", 0)
    lines = (tmp_path / "set" / "manifest.jsonl").read_text().splitlines()
    samples = built.samples(tmp_path / "set")
    assert len(lines) >= 3
    for line in lines:
        header = json.loads(line)
        shard, split = header["shard"], header["split"]
        chosen = [samples[key] for key in header["keys"]]
        alone = tmp_path / shard
        assert write_shard(alone, chosen, split, header["source"], header["version"]) == line
        assert alone.read_bytes() == (tmp_path / "set" / shard).read_bytes()
    assert write_shard(tmp_path / "none.tar", []) is None
    with pytest.raises(SampleError, match="written before"):
        write_shard(tmp_path / "twice.tar", [chosen[0], chosen[0]])
    assert not list(tmp_path.glob("none*")) and not list(tmp_path.glob("*twice*"))
