"""DICOM series: order, rescale and padding, what belongs together, and each irregular stack refused or put right."""

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless

from vlp.modalities.image.errors import ImageError
from vlp.modalities.volume.formats.dicom_series import files_below, find_series
from vlp.modalities.volume.read import read_volume

from ..written import AXIAL, CT, MR, ct, enhanced, read, series, slice_of, steps, write

STACK = ct((11, 9, 12)).transpose(2, 1, 0)  # slices, rows, columns
TILT = (1, 0, 0, 0, 0.948324, -0.317305)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def refused(path, reason: str, match: str, **options) -> None:
    with pytest.raises(ImageError, match=match) as found:
        read(path, **options)
    assert found.value.reason == reason, found.value


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        (AXIAL, (0, 0, 2.5)),
        (AXIAL, (0, 0, -2.5)),
        ((1, 0, 0, 0, 0, -1), (0, 3, 0)),
        ((0, 1, 0, 0, 0, -1), (1.5, 0, 0)),
        ((1, 0, 0, 0, 0.906308, 0.422618), (0, -1.267855, 2.718923)),
        ((-1, 0, 0, 0, -1, 0), (0, 0, 2)),
    ],
)
def test_a_series_is_what_simpleitk_makes_of_it_in_ras(tmp_path, orientation, step) -> None:
    shuffled = np.random.default_rng(0).permutation(12)
    positions = steps(12, step, (-40, 30, 500))
    folder = series(tmp_path / "a", STACK[shuffled], positions[shuffled], orientation, PixelSpacing=[0.9, 0.7])
    found = read(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    peer = sitk.DICOMOrient(reader.Execute(), "RAS")
    np.testing.assert_array_equal(found.voxels, sitk.GetArrayFromImage(peer))
    np.testing.assert_allclose(found.spacing, peer.GetSpacing()[::-1], atol=1e-4)
    place = peer.TransformContinuousIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose(found.world((5.5, 4.5, 3.5)), np.array(place) * (-1, -1, 1), atol=1e-3)
    slice_, row, column = 7, 5, 2  # of the stack: back through the file's own axes, and to where its header puts it
    file = found.axes.to_file(found.voxels)
    at = slice_ if np.dot(np.cross(orientation[:3], orientation[3:]), step) > 0 else 11 - slice_
    assert file[column, row, at] == STACK[slice_, row, column]
    true = positions[slice_] + 0.7 * column * np.array(orientation[:3]) + 0.9 * row * np.array(orientation[3:])
    np.testing.assert_allclose((found.file_affine() @ [column, row, at, 1])[:3] * (-1, -1, 1), true, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "signed", "padding", "hu"),
    [
        ([[24, 1024, 1064], [1424, 4095, 0]], 1, -1024, 0, None, [[-1000, 0, 40], [400, 3071, -1024]]),
        ([[7192, 8192, 8232], [8592, 11263, 7168]], 1, -8192, 0, None, [[-1000, 0, 40], [400, 3071, -1024]]),
        ([[-1000, 0, 40], [400, 3071, -1500]], 1, 0, 1, -1500, [[-1000, 0, 40], [400, 3071, -1024]]),
        ([[24, 1024, 1064], [1424, 4095, -2000]], 1, -1024, 1, -2000, [[-1000, 0, 40], [400, 3071, -1024]]),
        ([[0, 2048, 2128], [2848, 8190, 48]], 0.5, -1024, 0, None, [[-1024, 0, 40], [400, 3071, -1000]]),
    ],
)
def test_rescale_and_padding_of_the_reference(tmp_path, stored, slope, intercept, signed, padding, hu) -> None:
    plane = np.tile(np.array(stored), (4, 3)).astype(np.int16 if signed else np.uint16)
    more = {} if padding is None else {"PixelPaddingValue": padding}
    folder = series(
        tmp_path / "a", np.stack([plane] * 8), steps(8), RescaleSlope=slope, RescaleIntercept=intercept, **more
    )
    found = read(folder)
    assert found.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.axes.to_file(found.voxels)[:, :, 3].T, np.tile(hu, (4, 3)))


def test_slope_and_intercept_are_of_each_file(tmp_path) -> None:
    for index, plane in enumerate(STACK):
        intercept = -1024 if index % 2 else -2048
        stored = (plane.astype(int) - intercept).clip(0).astype(np.uint16)
        write(tmp_path / "a", f"{index}", slice_of(stored, (0, 0, 2 * index), RescaleIntercept=intercept))
    np.testing.assert_array_equal(
        read(tmp_path / "a").axes.to_file(read(tmp_path / "a").voxels), STACK.transpose(2, 1, 0)
    )


def test_pet_and_mr_keep_their_values(tmp_path) -> None:
    plane = np.tile(np.array([[0, 1, 1000], [20000, 32767, 5]], np.int16), (4, 3))
    stack = np.stack([plane] * 8)
    found = read(series(tmp_path / "p", stack, steps(8), Modality="PT", RescaleSlope=0.123456))
    assert found.voxels.dtype == np.float32 and found.modality == "PT"
    np.testing.assert_allclose(found.voxels[0, ::-1, ::-1], plane * 0.123456, rtol=1e-6)
    mr = read(series(tmp_path / "m", stack, steps(8), kind=MR, PixelPaddingValue=5))
    assert mr.modality == "MR" and set(np.unique(mr.voxels)) == {0, 1, 1000, 20000, 32767}
    np.testing.assert_allclose(mr.range, np.percentile(mr.voxels[mr.voxels > 0], (0.5, 99.5)))


def test_enhanced_frames_have_their_own_place_and_rescale(tmp_path) -> None:
    order = np.random.default_rng(0).permutation(12)
    rescale = [(1, -1024) if number % 2 else (0.5, -2000) for number in range(12)]
    stored = np.stack([(STACK[at] - inter) / slope for at, (slope, inter) in zip(order, rescale, strict=True)])
    path = write(tmp_path, "e", enhanced(stored.astype(np.uint16), steps(12)[order], rescale))
    for item in (path, tmp_path, [path]):
        found = read(item)
        np.testing.assert_array_equal(found.axes.to_file(found.voxels), STACK.transpose(2, 1, 0))
        assert found.spacing == (2, 1, 1)
    plain = slice_of(STACK, (0, 0, 0), NumberOfFrames=12)
    refused(write(tmp_path / "b", "b", plain), "no_volume", "12 x slice without a position")


def test_scouts_captures_and_other_files_are_left_out_and_counted(tmp_path) -> None:
    folder = series(tmp_path / "a", STACK, steps(12))
    expected = read(folder)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write(folder, "x0", slice_of(STACK[0], (0, 0, 0), (0, 1, 0, 0, 0, -1), ImageType=scout))
    write(folder, "x1", slice_of(STACK[0], (0, 0, 0), kind=CAPTURE, ImageType=["DERIVED", "SECONDARY", "REF_SURVIEW"]))
    write(folder, "x2", slice_of(STACK[0], None))
    write(folder, "x3", slice_of(STACK[0], None, Modality="SR", kind="1.2.840.10008.5.1.4.1.1.88.11"))
    (folder / "DICOMDIR").write_bytes(b"index")
    (folder / "report.txt").write_text("no DICOM")
    (folder / "thumbs.db").write_bytes(b"no DICOM either")
    found = read(folder)
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    assert found.steps == (
        "left out: 1 x file that is no image, 1 x file that is not DICOM, 1 x localiser (ImageType LOCALIZER), "
        "1 x secondary capture, 1 x slice without a position",
    )
    only = series(tmp_path / "b", STACK, steps(12), ImageType=scout)
    refused(only, "no_volume", r"no slice of a volume \(12 x localiser \(ImageType LOCALIZER\)\)")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no_volume", "no files")


def test_what_does_not_belong_together_is_told_and_chosen(tmp_path) -> None:
    folder = series(tmp_path / "a", STACK, steps(12))
    series(folder, STACK[:, :, ::-1], steps(12), prefix="b", SeriesInstanceUID="1.2.3.9")
    refused(
        folder,
        "several_volumes",
        r"2 volumes in one folder \(0: 12 axial CT slices of 9 x 11 at 1 x 1 mm; 1: .*`volume: i`",
    )
    np.testing.assert_array_equal(read(folder, volume=1).voxels, read(folder, volume=0).voxels[:, :, ::-1])
    np.testing.assert_array_equal(read(sorted(folder.glob("b*"))).voxels, read(folder, volume=1).voxels)
    np.testing.assert_array_equal(
        read(find_series(files_below(folder)).series[1]).voxels, read(folder, volume=1).voxels
    )
    for name, stack, orientation, more in (
        ("size", STACK[:, :8], AXIAL, {}),
        ("spacing", STACK, AXIAL, {"PixelSpacing": [2, 2]}),
        ("frame", STACK, AXIAL, {"FrameOfReferenceUID": "1.2.9"}),
        ("plane", STACK, (1, 0, 0, 0, 0, -1), {}),
    ):
        mixed = series(tmp_path / name, STACK, steps(12))
        series(mixed, stack[:5], steps(5, (0, 3, 1)), orientation, prefix="b", **more)
        refused(mixed, "several_volumes", r"2 volumes in one series \(0: 12 axial .*; 1: 5 (axial|coronal) CT slices")
        assert len(read(mixed, volume=0).voxels) == 12
        refused(mixed, "no_volume", "5 .* slices .*: a volume needs at least 8", volume=1)
    both = series(tmp_path / "petct", STACK, steps(12))
    series(both, STACK, steps(12), prefix="p", Modality="PT", SeriesInstanceUID="1.2.3.1")
    refused(both, "several_volumes", "PT slices .*CT slices")
    found = read(both, modality="CT")
    assert found.modality == "CT" and found.steps == ("left out: 12 x PT slice, asked for CT",)
    refused(tmp_path / "a", "no_volume", "24 x CT slice, asked for MR", modality="MR")
    found = find_series(files_below(tmp_path / "frame"))
    assert [len(part.slices) for part in found.series] == [12, 5] and not found.damaged


def test_two_slices_at_one_place(tmp_path) -> None:
    folder = series(tmp_path / "a", STACK, steps(12))
    expected = read(folder)
    (folder / "copy").write_bytes((folder / "s003").read_bytes())
    assert read(folder).steps == ("left out: 1 x copy of another file",)
    one_name = series(tmp_path / "b", STACK, steps(12), SOPInstanceUID="1.2.3")
    np.testing.assert_array_equal(read(one_name).voxels, expected.voxels)
    write(folder, "again", slice_of(STACK[5], (0, 0, 10)))
    found = read(folder)
    assert found.steps[1] == "1 slices at the places of others, equal to them, left out"
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    write(folder, "other", slice_of(STACK[6] + 1, (0, 0, 10), AcquisitionNumber=2))
    refused(
        folder, "two_slices_at_one_place", "unequal pixels at one place .10 mm .*differing: AcquisitionNumber of Temp"
    )


@pytest.mark.parametrize("name", ["AcquisitionNumber", "EchoTime", "TemporalPositionIdentifier", "ContentTime"])
def test_phases_and_echoes_are_a_volume_each(tmp_path, name: str) -> None:
    values = ("101010.5", "101012.5") if name == "ContentTime" else (1, 2)
    kind = MR if name == "EchoTime" else CT
    folder = series(tmp_path / "a", STACK, steps(12), kind=kind, **{name: values[0]})
    series(folder, STACK[:, ::-1], steps(12), prefix="b", kind=kind, **{name: values[1]})
    refused(folder, "several_volumes", f"2 volumes in one series .*{name} 1 of 2; 1: .*{name} 2 of 2")
    np.testing.assert_array_equal(read(folder, volume=1).voxels, read(folder, volume=0).voxels[:, ::-1])
    assert read(folder, volume=1).steps == (f"one of several volumes in a series: {name} 2 of 2",)


def test_missing_and_uneven_slices(tmp_path) -> None:
    positions = np.delete(steps(14), [4, 9], 0)
    folder = series(tmp_path / "a", STACK, positions)
    refused(folder, "missing_slices", r"2 slices are missing among 12, the first between 6 and 10 mm .*`gaps: fill`")
    found = read(folder, gaps="fill")
    assert found.shape == (14, 9, 11) and found.steps == ("gaps: 12 slices interpolated to 14",)
    file = found.axes.to_file(found.voxels).transpose(2, 1, 0)
    np.testing.assert_array_equal(np.delete(file, [4, 9], 0), STACK)
    np.testing.assert_array_equal(file[4], np.rint((STACK[3].astype(float) + STACK[4]) / 2))
    positions = steps(12)
    positions[6:, 2] += 0.9
    uneven = series(tmp_path / "b", STACK, positions)
    refused(uneven, "uneven_gaps", r"\(10 x 2 mm, 1 x 2.9 mm\): the option `gaps: resample`")
    assert read(uneven, gaps="resample").spacing == (2, 1, 1)
    jitter = steps(12) + np.random.default_rng(0).uniform(-0.005, 0.005, (12, 1)) * [0, 0, 1]
    np.testing.assert_allclose(read(series(tmp_path / "c", STACK, jitter)).spacing, (2, 1, 1), atol=2e-3)


def test_a_tilted_gantry_is_refused_or_straightened_to_where_its_header_says(tmp_path) -> None:
    """A function of millimetres is the oracle: sampled on the tilted slices, it must come back at every voxel's place."""
    place = steps(20, (0, 0, 4.22), (-30, 10, -400))
    rows, columns = np.array(TILT[3:]), np.array(TILT[:3])
    grid = np.arange(24)[:, None, None] * 1.1 * rows + np.arange(16)[:, None] * 0.8 * columns
    points = place[:, None, None] + grid

    def body(world: np.ndarray) -> np.ndarray:
        return 3 * world[..., 0] + 2 * world[..., 1] + 1.5 * (world[..., 2] + 400)

    stack = np.rint(body(points)).astype(np.int16)
    stack[:, :, :4] = -1000
    folder = series(tmp_path / "a", stack, place, TILT, PixelSpacing=[1.1, 0.8])
    refused(
        folder, "gantry_tilt", r"leans by 18.5 degrees .*1.339 mm aside .*19 x 4.002 mm\. The option `tilt: resample`"
    )
    found = read(folder, tilt="resample")
    assert found.steps == ("leaning stack brought onto a straight grid",) and len(found.voxels) == 20
    np.testing.assert_allclose(found.spacing, (4.002, 1.1, 0.8), atol=1e-3)
    axes = found.affine[:3, :3] / np.linalg.norm(found.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    index = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), -1)
    expected = body(found.world(index + 0.5) * (-1, -1, 1))
    inside = (found.voxels > -900) & (
        index[..., 2] < 11
    )  # columns are mirrored: what is air in the file lies at the end
    core = inside & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    assert core.sum() > 0.5 * stack.size
    assert np.abs(found.voxels - expected)[core].max() <= 1.01
    tilted_and_missing = series(
        tmp_path / "b", np.delete(stack, 7, 0), np.delete(place, 7, 0), TILT, PixelSpacing=[1.1, 0.8]
    )
    refused(tilted_and_missing, "missing_slices", "`gaps: fill`", tilt="resample")
    both = read(tilted_and_missing, tilt="resample", gaps="fill")
    assert both.shape == found.shape
    assert np.abs(both.voxels - expected)[core & (np.abs(index[..., 0] - 7) > 1)].max() <= 1.01


def test_too_few_too_many_and_too_large(tmp_path) -> None:
    refused(
        series(tmp_path / "a", STACK[:7], steps(7)),
        "no_volume",
        "7 axial CT slices .*: a volume needs at least 8 slices",
    )
    refused(tmp_path / "a" / "s000", "no_volume", "1 axial CT slices")
    (tmp_path / "a" / "thumbs.db").write_bytes(b"no DICOM")
    refused(tmp_path / "a", "no_volume", r"at least 8 slices \(left out: 1 x file that is not DICOM\)")
    folder = series(tmp_path / "b", STACK, steps(12))
    with pytest.raises(ImageError, match="the limit is 1000") as found:
        read_volume(folder, 1000)
    assert found.value.reason == "volume_too_large"
    wide = series(tmp_path / "c", STACK.astype(np.int16) + 2000, steps(12), RescaleSlope=30)
    refused(
        wide,
        "not_hounsfield",
        r"s000: values from .* Hounsfield units lie within .*own slope \[30.0\], intercept \[0.0\]",
    )
    twice = series(tmp_path / "d", STACK, steps(12), RescaleIntercept=-1024)
    refused(twice, "rescaled_twice", "rescaled twice")
    never = series(tmp_path / "e", (STACK + 1024).clip(0), steps(12))
    refused(never, "not_rescaled", "not rescaled")
    refused(folder, "rescaled_twice", "leave out the option `rescale`", rescale=(1, -1024))


def test_damaged_and_compressed_files(tmp_path) -> None:
    folder = series(tmp_path / "a", STACK, steps(12))
    data = (folder / "s004").read_bytes()
    (folder / "s004").write_bytes(data[:-20])
    refused(folder, "image_truncated", "s004")
    (folder / "s004").write_bytes(data[:200] + bytes(range(256)) + data[456:])
    with pytest.raises(ImageError):
        read(folder)
    for size in (330, 400, 500):
        (folder / "s004").write_bytes(data[:size])
        refused(folder, "bad_header", "s004: DICOM")
        assert [len(part.slices) for part in find_series(files_below(folder)).series] == [11]
    packed = slice_of(STACK[4], (0, 0, 8))
    packed.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
    packed.PixelData = encapsulate([bytes(200)])
    packed["PixelData"].is_undefined_length = True
    write(folder, "s004", packed)
    refused(folder, "image_compressed", r"s004: no decoder is installed for its compression, MPEG2 .*python-gdcm")
    for index, plane in enumerate(STACK):
        file = slice_of(plane, (0, 0, 2 * index))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.compress(RLELossless)
        write(tmp_path / "rle", f"{index}", file)
    np.testing.assert_array_equal(read(tmp_path / "rle").voxels, read(series(tmp_path / "b", STACK, steps(12))).voxels)
    wrong = series(tmp_path / "c", STACK, steps(12), PixelSpacing=[0, 1])
    refused(wrong, "bad_spacing", r"PixelSpacing is \[0.0, 1.0\]")
    skew = series(tmp_path / "d", STACK, steps(12), (1, 0, 0, 0.3, 1, 0))
    refused(skew, "bad_affine", "ImageOrientationPatient")
    far = series(tmp_path / "e", STACK, steps(12, (0, 0, 30)))
    refused(far, "bad_spacing", "axis k .* is 30 mm")


def test_neither_messages_nor_steps_nor_warnings_quote_the_patient(tmp_path, recwarn, caplog) -> None:
    who = {
        "PatientName": "DOE^JANE",
        "PatientID": "MRN-4711",
        "PatientBirthDate": "19611224",
        "AccessionNumber": "ACC-4711",
        "SeriesInstanceUID": "1.2.840.4711",
        "SeriesDescription": "DOE thorax",
        "ContentTime": "DOE",  # no time: pydicom warns of it, with the value
    }
    whole = series(tmp_path / "whole", STACK, steps(12), ImageType=["ORIGINAL", "PRIMARY", "DOE"], **who)
    broken = {
        "missing": series(tmp_path / "missing", STACK, np.delete(steps(13), 6, 0), **who),
        "two": series(series(tmp_path / "two", STACK, steps(12), **who), STACK[:, :4], steps(12), prefix="b", **who),
        "double": series(series(tmp_path / "double", STACK, steps(12), **who), STACK + 1, steps(12), prefix="b", **who),
        "spacing": series(tmp_path / "spacing", STACK, steps(12), PixelSpacing=[], **who),
        "scout": series(tmp_path / "scout", STACK, steps(12), ImageType=["DOE", "DOE", "LOCALIZER"], **who),
        "cut": series(tmp_path / "cut", STACK, steps(12), **who),
    }
    (broken["cut"] / "s003").write_bytes((broken["cut"] / "s003").read_bytes()[:420])
    recwarn.clear()  # pydicom warns where the files are written, too
    caplog.clear()
    said = [*read(whole).steps]
    for folder in broken.values():
        with pytest.raises(ImageError) as found:
            read(folder)
        said.append(str(found.value))
    said += [str(warning.message) for warning in recwarn if "DOE" in str(warning.message)] + caplog.messages
    assert not [text for text in said for value in ("DOE", "4711", "19611224") if value in text]
