"""The one reader: which kind of file is read how, Rad-ChestCT's arrays, and files that are no volume."""

import io
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlp.core.config import ConfigError, validate
from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.options import VolumeOptions, affine_of
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.read import read_mask, read_volume
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import orientation

from .written import LIMIT, ct, nifti, series


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


def test_a_mask_lies_on_its_volume_or_is_refused(tmp_path) -> None:
    array = ct((9, 10, 12))
    affine = np.array([[-0.8, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.0, -50], [0, 0, 0, 1]])
    volume = read_volume(nifti(tmp_path / "a.nii.gz", array, affine), LIMIT)
    labels = (array > 300).astype(np.uint8) * 3
    found = read_mask(nifti(tmp_path / "m.nii.gz", labels, affine), volume)
    np.testing.assert_array_equal(found, (volume.voxels > 300) * 3)
    other = labels.transpose(1, 2, 0).astype(np.float32)  # written in another order of axes, at the same places
    other = nifti(tmp_path / "o.nii", other, affine[:, [1, 2, 0, 3]])
    np.testing.assert_array_equal(read_mask(other, volume), found)
    shifted = affine.copy()
    shifted[0, 3] += 0.8
    for name, mask, place, match in (
        ("size", labels[:8], affine, r"12 x 10 x 8 voxels on a volume of 12 x 10 x 9 \(D x H x W\)"),
        ("shift", labels, shifted, "corners up to 0.8 mm apart: expected the voxels of its volume"),
        ("mirror", labels, affine * [[-1, 1, 1, 1]] * 1.0, "mm apart"),
        ("parts", labels / np.float32(2), affine, "no labels"),
    ):
        with pytest.raises(ImageError, match=match) as error:
            read_mask(nifti(tmp_path / f"{name}.nii", mask, place), volume)
        assert error.value.reason == "bad_mask" and str(error.value).startswith(f"{name}.nii: ")


def _body(world: np.ndarray) -> np.ndarray:
    """A function of millimetres in RAS: a mean over a box is its value in the middle, so that resampling adds no error."""
    return world @ (6.0, -4.0, 3.0) - 300


_TURN = Rotation.from_euler("xyz", (9, -5, 14), degrees=True).as_matrix()
WRITTEN = {
    "RAS 3 mm": (np.diag([3.0, 3, 3]), (40, 36, 30)),
    "LPS 2 x 2 x 5": (np.diag([-2.0, -2, 5]), (60, 54, 18)),
    "LAS 4 x 4 x 8": (np.diag([-4.0, 4, 8]), (30, 27, 12)),
    "ASR sagittal": (np.array([[0, 0, 4.0], [3, 0, 0], [0, 3, 0]]), (36, 30, 30)),
    "oblique": (_TURN @ np.diag([-2.5, -2.5, 4]), (48, 44, 23)),
    "IPL": (np.array([[0, 0, -3.0], [0, -3, 0], [-3, 0, 0]]), (30, 36, 40)),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_body_is_itself_however_it_was_written(tmp_path, name: str, kind: str) -> None:
    linear, shape = WRITTEN[name]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (4, -7, 11) - linear @ (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    array = np.rint(_body(index @ linear.T + affine[:3, 3])).astype(np.int16)
    path = tmp_path / "a.nii.gz"
    if kind == "nifti":
        nifti(path, array, affine)
    else:
        spacing = np.linalg.norm(linear, axis=0)
        lps = np.diag([-1.0, -1, 1]) @ linear
        rows, columns = (lps / spacing)[:, 0], (lps / spacing)[:, 1]
        path = tmp_path / "series"
        positions = (affine[:3, 3] * (-1, -1, 1)) + np.arange(shape[2])[:, None] * lps[:, 2]
        plane = [spacing[1], spacing[0]]
        stored = (array.transpose(2, 1, 0) + 2048).astype(np.uint16)
        series(path, stored, positions, [*rows, *columns], PixelSpacing=plane, RescaleIntercept=-2048)
    processor = VolumeProcessor(VolumeSpec(spacing=(6, 6, 6), size=(13, 15, 17)))
    volume = processor.native(path)
    tensor, geometry = processor.eval(volume)
    output = np.stack(np.meshgrid(*map(np.arange, (17, 15, 13)), indexing="ij"), -1)  # x, y, z
    to_world = processor.affine(volume, geometry)
    expected = _body(output @ to_world[:3, :3].T + to_world[:3, 3])
    found = tensor[0].numpy().transpose(2, 1, 0)
    inner = (slice(1, -1),) * 3
    # a voxel of which a part is covered counts at its own middle: under 4 HU here, one voxel of shift is more than that
    assert np.abs(found - expected)[inner].max() < 4 and (found[inner] > -1024).mean() > 0.9
