"""NIfTI: which affine counts, what stored values mean, and each header and file that is refused."""

import gzip
import io

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.options import VolumeOptions
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.volume import to_ras

from ..written import LIMIT, ct, nifti, patched, read

SHAPE = (9, 10, 12)
LPS = np.array([[-0.8, 0, 0, 100], [0, -0.8, 0, 90], [0, 0, 2.0, -50], [0, 0, 0, 1]])


def refused(path, reason: str, match: str, limit: int = LIMIT, **options) -> None:
    with pytest.raises(ImageError, match=match) as found:
        read_volume(path, limit, VolumeOptions(**options))
    assert found.value.reason == reason and str(found.value).startswith(path.name)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["<i2", ">i2", "<f4", "<f8", "<i4"])
def test_voxels_are_those_of_nibabel_in_ras(tmp_path, ending: str, kind: str) -> None:
    array = ct(SHAPE)
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(array.astype(kind), LPS), path)
    found = read(path)
    peer = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(found.voxels, peer.get_fdata().transpose(2, 1, 0))
    np.testing.assert_allclose(found.affine, peer.affine, atol=1e-6)
    assert found.voxels.dtype == np.int16 and found.voxels.flags.c_contiguous
    np.testing.assert_allclose(found.spacing, (2, 0.8, 0.8), rtol=1e-6)


def test_a_planted_voxel_keeps_its_place_back_to_a_nifti_file(tmp_path) -> None:
    array = ct(SHAPE)
    array[4, 7, 3] = 3000
    found = read(nifti(tmp_path / "a.nii", array, LPS))
    at = np.unravel_index(found.voxels.argmax(), found.shape)
    np.testing.assert_allclose(found.world(np.array(at) + 0.5), (LPS @ [4, 7, 3, 1])[:3], atol=1e-5)
    back = nibabel.Nifti1Image(found.axes.to_file(found.voxels), found.file_affine())
    np.testing.assert_array_equal(np.asarray(back.dataobj), array)
    np.testing.assert_allclose(back.affine, LPS, atol=1e-5)


def test_nifti_2_is_read_and_a_name_says_nothing_of_gzip(tmp_path) -> None:
    array = ct(SHAPE)
    nibabel.save(nibabel.Nifti2Image(array, LPS), tmp_path / "two.nii")
    np.testing.assert_array_equal(read(tmp_path / "two.nii").voxels, array.transpose(2, 1, 0)[:, ::-1, ::-1])
    plain = nifti(tmp_path / "a.nii", array)
    (tmp_path / "b.nii").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.nii.gz").write_bytes(plain.read_bytes())
    for name in ("b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name).voxels, array.transpose(2, 1, 0))


def test_sform_comes_before_qform_and_without_either_a_file_has_no_orientation(tmp_path) -> None:
    array, other = ct(SHAPE), np.diag([1.0, 1.0, 2.0, 1.0])
    both = nibabel.Nifti1Image(array, LPS)
    for codes, expected in {(0, 1): LPS, (1, 0): LPS, (0, 2): LPS, (1, 1): LPS}.items():
        both.header.set_qform(LPS if codes[0] else other, codes[0])
        both.header.set_sform(LPS if codes[1] else other, codes[1])
        nibabel.save(both, tmp_path / "a.nii")
        np.testing.assert_allclose(read(tmp_path / "a.nii").file_affine(), expected, atol=1e-5)
    both.header.set_qform(other, 1)
    both.header.set_sform(LPS, 2)  # the pair in which SimpleITK takes the other one
    nibabel.save(both, tmp_path / "b.nii")
    refused(
        tmp_path / "b.nii", "two_orientations", r"sform \(code 2\) and qform \(code 1\) put a corner 143.5 mm apart"
    )
    blank = patched(nifti(tmp_path / "c.nii", array), sform_code=0, qform_code=0)
    refused(blank, "no_orientation", "no orientation in the header: .*`orientation`.*`spacing`")
    found = read(blank, orientation="LPS", spacing=(3, 0.7, 0.6))
    assert found.spacing == (3, 0.7, 0.6)
    np.testing.assert_array_equal(found.axes.to_file(found.voxels), array)
    np.testing.assert_allclose(np.diag(found.file_affine()), [-0.6, -0.7, 3, 1])
    np.testing.assert_allclose(read(blank, orientation="IPL").spacing, (1, 1, 2))  # the header's, along i, j, k


def test_oblique_lps_files_of_nibabel_are_no_two_orientations(tmp_path) -> None:
    """Near half a turn a quaternion in 32-bit floats is some tenths of a millimetre off at the corners."""
    rng = np.random.default_rng(0)
    array = np.zeros((128, 128, 16), np.int16)
    array[:40] = -1000
    worst = 0.0
    for _ in range(20):
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_euler("xyz", rng.normal(0, 0.01, 3)).as_matrix() @ np.diag([-2.8, -2.8, 10])
        affine[:3, 3] = rng.uniform(-300, 300, 3)
        image = nibabel.Nifti1Image(array, affine)
        image.set_qform(affine, 1)
        nibabel.save(image, tmp_path / "a.nii")
        loaded = nibabel.load(tmp_path / "a.nii").header
        worst = max(worst, float(np.abs((loaded.get_sform() - loaded.get_qform()) @ [127, 127, 15, 1]).max()))
        assert read(tmp_path / "a.nii").shape == (16, 128, 128)
    assert worst > 0.005


def test_stored_values_are_scaled_once(tmp_path) -> None:
    array = ct(SHAPE)
    stored = (array.astype(np.int32) + 1024).clip(0).astype(np.uint16)
    path = patched(nifti(tmp_path / "a.nii", stored), scl_slope=1, scl_inter=-1024)
    found = read(path)
    np.testing.assert_array_equal(found.voxels, nibabel.load(path).get_fdata().transpose(2, 1, 0))
    assert found.steps == ("slope 1, intercept -1024",)
    for slope in (0, np.nan):  # which say that there is none
        path = patched(nifti(tmp_path / "b.nii", array), scl_slope=slope, scl_inter=7)
        np.testing.assert_array_equal(read(path).voxels, array.transpose(2, 1, 0))
    half = patched(nifti(tmp_path / "c.nii", (array * 2 + 2048).astype(np.int16)), scl_slope=0.5, scl_inter=-1024)
    np.testing.assert_array_equal(read(half).voxels, array.transpose(2, 1, 0))


def test_a_table_gives_the_rescale_that_a_file_lacks(tmp_path) -> None:
    array = ct(SHAPE)
    raw = nifti(tmp_path / "v1.nii.gz", array.astype(np.float32) + 8192)
    refused(raw, "not_rescaled", "not rescaled.*`rescale`")
    np.testing.assert_array_equal(read(raw, rescale=(1, -8192)).voxels, array.transpose(2, 1, 0))
    fixed = nifti(tmp_path / "v2.nii.gz", array)
    for intercept in (-1024, -8192):
        refused(fixed, "rescaled_twice", "rescaled twice.*v2", rescale=(1, intercept))
    own = patched(nifti(tmp_path / "own.nii", array), scl_slope=1, scl_inter=-10)
    refused(own, "rescaled_twice", "itself", rescale=(1, -1024))


def test_units_of_length(tmp_path) -> None:
    affine = np.diag([0.001, 0.001, 0.002, 1])
    path = patched(nifti(tmp_path / "m.nii", ct(SHAPE), affine), xyzt_units=1)
    np.testing.assert_allclose(read(path).spacing, (2, 1, 1), rtol=1e-6)
    refused(
        patched(path, xyzt_units=2),
        "bad_spacing",
        r"axis i \(of 9 voxels\) is 0.001 mm: expected 0.05 to 20.*xyzt_units",
    )
    path = patched(nifti(tmp_path / "u.nii", ct(SHAPE), np.diag([800.0, 800, 2000, 1])), xyzt_units=3)
    np.testing.assert_allclose(read(path).spacing, (2, 0.8, 0.8), rtol=1e-6)
    refused(nifti(tmp_path / "x.nii", ct(SHAPE), np.diag([1.0, 1, 25, 1])), "bad_spacing", r"axis k .* is 25 mm")
    assert read(tmp_path / "x.nii", spacing=(2.5, 1, 1)).spacing == (2.5, 1, 1)


def test_zero_and_negative_spacing_and_a_singular_affine(tmp_path) -> None:
    plain = nifti(tmp_path / "a.nii", ct(SHAPE))
    refused(patched(plain, srow_z=[0, 0, 0, 5]), "bad_spacing", "axis k .* is 0 mm")
    refused(
        patched(plain, srow_z=[1, 1, 2, 5], srow_x=[1, 1, 2, 0], srow_y=[1, 1, 2, 0]),
        "bad_affine",
        "span no space|sheared",
    )
    refused(patched(plain, srow_x=[np.nan, 0, 0, 0]), "bad_affine", "no number")
    by_qform = nibabel.Nifti1Image(ct(SHAPE), LPS)
    by_qform.set_sform(None, 0)
    by_qform.set_qform(LPS, 1)
    nibabel.save(by_qform, tmp_path / "q.nii")
    for wrong in (0, -2):
        bad = patched(tmp_path / "q.nii", pixdim=[-1, 0.8, 0.8, wrong, 0, 0, 0, 0])
        refused(bad, "bad_spacing", "pixdim|axis k")


def test_four_axes_two_axes_and_few_slices(tmp_path) -> None:
    four = np.stack([ct(SHAPE, seed) for seed in range(3)], 3)
    path = nifti(tmp_path / "a.nii.gz", four)
    refused(path, "several_volumes", "9 x 10 x 12 x 3: axis 3 has 3 volumes: .*`volume: i`, from 0 to 2")
    refused(path, "several_volumes", "`volume: 3` is none of them", volume=3)
    for index in range(3):
        np.testing.assert_array_equal(read(path, volume=index).voxels, four[..., index].transpose(2, 1, 0))
    np.testing.assert_array_equal(
        read(nifti(tmp_path / "b.nii", four[..., :1])).voxels, four[..., 0].transpose(2, 1, 0)
    )
    refused(
        nifti(tmp_path / "c.nii", four[:, :, 0, 0]), "no_volume", "9 x 10: expected three axes; .* at least 8 slices"
    )
    refused(nifti(tmp_path / "d.nii", four[:, :, :1, 0]), "no_volume", "at least 8 slices")
    refused(nifti(tmp_path / "e.nii", four[:, :, :7, 0]), "no_volume", "9 x 10 x 7: a volume needs at least 8 slices")
    refused(nifti(tmp_path / "f.nii", four[..., None, :]), "no_volume", "9 x 10 x 12 x 1 x 3")


def test_voxels_that_are_no_numbers_or_no_int16(tmp_path) -> None:
    array = ct(SHAPE).astype(np.float32)
    for wrong in (np.nan, np.inf, -np.inf):
        array[2, 3, 4] = wrong
        refused(
            nifti(tmp_path / "a.nii", array), "bad_voxels", rf"1 voxels of plane 4 .* are {wrong}, .* row 3, column 2"
        )
    array[2, 3, 4] = 40000
    refused(nifti(tmp_path / "b.nii", array), "not_hounsfield", "to 40000 after slope 1, intercept 0.*-32768..32767")
    colours = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "c.nii")
    refused(tmp_path / "c.nii", "bad_header", "one number a voxel")
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)), tmp_path / "d.nii")
    refused(tmp_path / "d.nii", "bad_header", "one number a voxel")


def test_damaged_files_are_refused_and_too_large_ones_before_they_are_unpacked(tmp_path) -> None:
    good = nifti(tmp_path / "a.nii.gz", ct(SHAPE)).read_bytes()
    path = tmp_path / "cut.nii.gz"
    for size in (0, 1, 30, len(good) // 2, len(good) - 9, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(ImageError, match=r"truncated or damaged gzip|is no NIfTI"):
            read(path)
    middle = bytearray(good)
    middle[len(good) // 2] ^= 0x55
    path.write_bytes(bytes(middle))
    with pytest.raises(ImageError):
        read(path)
    plain = nifti(tmp_path / "a.nii", ct(SHAPE)).read_bytes()
    (tmp_path / "b.nii").write_bytes(plain[:-1])
    refused(tmp_path / "b.nii", "image_truncated", "ends after 2159 of 2160 bytes")
    refused(tmp_path / "a.nii.gz", "volume_too_large", "9 x 10 x 12 voxels, the limit is 1000", limit=1000)
    huge = patched(tmp_path / "a.nii", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    refused(huge, "volume_too_large", "30000 x 30000 x 30000")
    path.write_bytes(gzip.compress(huge.read_bytes()))
    refused(path, "volume_too_large", "30000 x 30000 x 30000")
    (tmp_path / "text.nii").write_text("no image " * 100)
    refused(tmp_path / "text.nii", "image_unreadable", "is no NIfTI file")
    with pytest.raises(ImageError, match=r"[Nn]o such file"):
        read(tmp_path / "missing.nii")
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:  # voxels said to begin behind more than is read for them
        file.write(patched(nifti(tmp_path / "o.nii", ct(SHAPE)), vox_offset=1e9).read_bytes())
    path.write_bytes(bomb.getvalue())
    refused(path, "bad_header", "begin at byte 1000000000")


def test_a_sheared_file_is_refused_or_brought_upright(tmp_path) -> None:
    """The phantom itself is the oracle: a function of millimetres, sampled on a sheared grid and on the straight one."""

    def body(points: np.ndarray) -> np.ndarray:
        return 4 * points[..., 0] - 3 * points[..., 1] + 5 * points[..., 2] - 300

    affine = np.array([[1.0, 0, 0, -10], [0, 1.2, 0.55, 4], [0, 0, 2, -8], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*map(np.arange, (20, 16, 12)), indexing="ij"), -1)
    array = body(index @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)
    array[:4] = -1000
    path = nifti(tmp_path / "a.nii", array, affine)
    refused(path, "gantry_tilt", r"leans by 15.4 degrees .* `tilt: resample`")
    found = read(path, tilt="resample")
    assert found.shape == (12, 16 + 6, 20) and found.steps == ("leaning stack brought onto a straight grid",)
    planes = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), -1)
    expected = body(found.world(planes + 0.5))
    inside = (found.voxels > -999) & (planes[..., 2] >= 5)
    assert inside.sum() > 0.6 * 12 * 16 * 20
    core = inside & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)  # at its ends a slice fades into the air
    np.testing.assert_allclose(found.voxels[core], expected[core], atol=0.51)
    straight, upright, _ = to_ras(array, affine)
    assert np.abs(upright[:3, 2]).tolist() == [0, 0.55, 2] and straight.shape == (12, 16, 20)
