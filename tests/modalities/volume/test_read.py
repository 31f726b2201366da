"""The one reader: which kind of file is read how, Rad-ChestCT's arrays, and files that are no volume."""

import io
import zipfile

import numpy as np
import pytest

from vlp.core.config import ConfigError, validate
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.options import VolumeOptions, affine_of
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.volume import orientation

from .files import ct

LIMIT = 1 << 24


def npz(path, array: np.ndarray, name: str = "ct"):
    np.savez_compressed(path, **{name: array})
    return path


def test_rad_chestct_lies_from_the_top_the_front_and_the_right(tmp_path) -> None:
    array = ct((10, 12, 12)).clip(-1000, 1000)
    found = read_volume(npz(tmp_path / "trn00001.npz", array), LIMIT)
    np.testing.assert_array_equal(found.voxels, array[::-1, ::-1, ::-1])
    assert orientation(found.file_affine()) == "IPL" and found.spacing == pytest.approx((0.8, 0.8, 0.8))
    top_front_right = found.world(np.array([9.5, 11.5, 11.5]))  # towards head, front and right: the last voxel in RAS
    assert (top_front_right > 0).all() and found.voxels[9, 11, 11] == array[0, 0, 0]


def test_an_npz_of_another_axis_order_kind_or_size_is_refused(tmp_path) -> None:
    turned = ct((12, 12, 10))
    with pytest.raises(ImageError, match="12 x 12 x 10: the planes of IPL are square") as found:
        read_volume(npz(tmp_path / "a.npz", turned), LIMIT)
    assert found.value.reason == "axis_order"
    said = read_volume(tmp_path / "a.npz", LIMIT, VolumeOptions(orientation="LPI"))
    np.testing.assert_array_equal(said.axes.to_file(said.voxels), turned)
    for array, name, match in (
        (ct((10, 12, 12)), "other", "holds no array `ct`"),
        (ct((10, 12, 12))[0], "ct", "expected three axes"),
        (np.array([{"a": 1}]), "ct", r"`ct` is \[1\] of object"),
        (np.zeros((3, 12, 12), np.int16), "ct", "at least 8 slices"),
    ):
        with pytest.raises(ImageError, match=match):
            read_volume(npz(tmp_path / "b.npz", array, name), LIMIT)
    with pytest.raises(ImageError, match="limit is 100"):
        read_volume(tmp_path / "a.npz", 100)
    data = (tmp_path / "a.npz").read_bytes()
    for size in (0, 50, len(data) // 2, len(data) - 1):
        (tmp_path / "c.npz").write_bytes(data[:size])
        with pytest.raises(ImageError, match=r"truncated or damaged"):
            read_volume(tmp_path / "c.npz", LIMIT)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": (20, 30, 30)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("ct.npy", header.getvalue() + bytes(100))
    with pytest.raises(ImageError, match="ends after 100 of 36000 bytes"):
        read_volume(tmp_path / "d.npz", LIMIT)


def test_what_is_no_volume(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(ImageError, match=r"a.png: is no volume that is read: expected .nii .nii.gz .mha"):
        read_volume(tmp_path / "a.png", LIMIT)
    for name in ("missing", "missing.nii.gz", "missing.mha", "missing.npz"):
        with pytest.raises(ImageError, match=r"[Nn]o such file"):
            read_volume(tmp_path / name, LIMIT)
    with pytest.raises(ImageError, match="0 files"):
        read_volume([], LIMIT)


def test_options_are_checked_where_they_are_written() -> None:
    for wrong in ("LP", "LPL", "LPX", "lps", "LRS"):
        with pytest.raises(ConfigError, match="expected three letters"):
            validate(VolumeOptions, {"orientation": wrong})
    with pytest.raises(ConfigError, match="positive"):
        validate(VolumeOptions, {"spacing": [1, 0, 1]})
    with pytest.raises(ConfigError, match="gaps"):
        validate(VolumeOptions, {"gaps": "ignore"})
    with pytest.raises(ConfigError, match="from 0"):
        validate(VolumeOptions, {"volume": -1})
    for codes in ("RAS", "LPS", "IPL", "ASR", "ILA"):
        affine = affine_of(codes, (1, 2, 3), (9, 10, 11))
        assert orientation(affine) == codes
        np.testing.assert_allclose((affine @ [4, 4.5, 5, 1])[:3], 0, atol=1e-12)
