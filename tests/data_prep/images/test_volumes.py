"""Volumes in shards: stored exactly, with their place and their masks, checked to the byte, read in parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import FieldError, check_sample
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import index_folder, verify
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume import store
from vlp.modalities.volume.volume import Volume, to_ras
from vlp.sample import Box, Report, Sample
from vlp_prep.images.store import ImageOptions
from vlp_prep.images.volumes import store_volume, store_volume_mask
from vlp_prep.pipeline.prepare import SampleProcessor, TextOptions
from vlp_prep.pipeline.shard_file import write_shard
from vlp_prep.sources.base import Reject

LPS = np.array([[-1.5, 0.2, 0.0, 80.0], [-0.2, -1.4, 0.0, 90.0], [0.0, 0.0, 4.0, -30.0], [0.0, 0.0, 0.0, 1.0]])


def volume() -> Volume:
    array = np.random.default_rng(0).integers(-1000, 1500, (20, 18, 12)).astype(np.int16)
    voxels, affine, axes = to_ras(array, LPS)
    return Volume(voxels, affine, "CT", axes=axes, steps=("read",))


def sample(**fields: object) -> Sample:
    inside = np.zeros((12, 18, 20), bool)
    inside[2:5, 3:9, 4:8] = True
    made = Sample("a", volume(), Report("No effusion."), masks={"lesion": store.encode_mask(inside)})
    return replace(made, boxes=(Box("lesion", (4.0, 3.0, 2.0, 8.0, 9.0, 5.0)),), **fields)  # type: ignore[arg-type]


prepare = SampleProcessor(ImageOptions(), TextOptions(concepts="none"))


def test_what_a_shard_holds_is_the_volume_to_the_bit(tmp_path: Path) -> None:
    line = write_shard(tmp_path / "train-000000.tar", [prepare(sample(), "train")], split="train")
    assert line is not None
    index_folder(tmp_path)
    found = ShardSet(Manifest.read(tmp_path)).sample(0)
    assert isinstance(found.image, bytes) and found.volume is not None
    stored, given = store.decode(found.image, 1 << 20), volume()
    np.testing.assert_array_equal(stored.voxels[:], given.voxels)
    np.testing.assert_array_equal(stored.axes.to_file(stored.voxels[:]), given.axes.to_file(given.voxels))
    np.testing.assert_allclose(stored.file_affine(), LPS, atol=1e-12)
    assert found.volume.shape == (12, 18, 20) and found.volume.orientation == "LPS" and found.volume.unit == "HU"
    np.testing.assert_allclose(found.volume.spacing, np.linalg.norm(LPS[:3, :3], axis=0)[::-1])
    assert found.boxes[0].xyxy == (4.0, 3.0, 2.0, 8.0, 9.0, 5.0)
    assert store.decode_mask(found.masks["lesion"], 1 << 20).sum() == 3 * 6 * 4
    assert not verify(tmp_path)


def test_a_planted_voxel_comes_back_to_its_place_in_the_patient() -> None:
    array = np.full((20, 18, 12), -1000, np.int16)
    array[5, 11, 3] = 700
    voxels, affine, axes = to_ras(array, LPS)
    stored = store.decode(store_volume(Volume(voxels, affine, axes=axes), 1 << 20).data, 1 << 20)
    place = np.argwhere(stored.voxels[:] == 700)[0]
    np.testing.assert_allclose(stored.world(place + 0.5), (LPS @ [5, 11, 3, 1])[:3], atol=1e-9)


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [prepare(sample(), "train")], split="train")
    index_folder(tmp_path)
    members = Manifest.read(tmp_path).columns(0).members(0)
    start, size = members["b2nd"]
    data = bytearray(path.read_bytes())
    data[start + size // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    assert [problem.key for problem in verify(tmp_path)] == ["a"]


def test_a_mask_of_another_geometry_is_refused() -> None:
    stored = store_volume(volume(), 1 << 20)
    with pytest.raises(ImageError, match=r"'lesion' is 12 x 18 x 19, its volume 12 x 18 x 20"):
        store_volume_mask(store.encode_mask(np.ones((12, 18, 19), bool)), "lesion", stored)


def test_a_volume_above_the_limit_is_refused() -> None:
    with pytest.raises(ImageError, match=r"12 x 18 x 20 voxels, more than the limit of 4000 \(image.max_voxels\)"):
        store_volume(volume(), 4000)


@pytest.mark.parametrize(
    ("box", "what"),
    [((1.0, 2.0, 5.0, 6.0), "expected 6 numbers"), ((30.0, 0.0, 0.0, 40.0, 5.0, 5.0), "no area inside")],
)
def test_a_box_of_a_volume_has_six_numbers_inside_of_it(box: tuple[float, ...], what: str) -> None:
    with pytest.raises(Reject, match=what):
        prepare(replace(sample(), boxes=(Box("lesion", box),)), "train")


def test_a_box_over_the_edge_is_cut_and_said() -> None:
    made = prepare(replace(sample(), boxes=(Box("lesion", (-4.0, 3.0, 2.0, 8.0, 30.0, 5.0)),)), "train")
    assert made.boxes[0].xyxy == (0.0, 3.0, 2.0, 8.0, 18.0, 5.0) and "boxes cut at the edge: 1" in made.steps


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"shape": (12, 18, 0)}, "three positive integers"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "finite numbers"),
        ({"affine": ((1.0, 0.0, 0.0, 0.0),)}, "an affine of three rows"),
    ],
)
def test_a_record_says_of_its_volume_what_can_be(change: dict[str, object], what: str) -> None:
    from vlp.data.shards.sample_io import read_volume_info

    record = prepare(sample(), "train").to_json()["volume"]
    assert read_volume_info(record) is not None
    with pytest.raises(FieldError, match=what):
        read_volume_info({**record, **change})
    with pytest.raises(FieldError, match="six finite numbers"):
        check_sample(replace(prepare(sample(), "train"), boxes=(Box("lesion", (1.0, 2.0, 3.0, 4.0)),)))
