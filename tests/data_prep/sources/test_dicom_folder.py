"""Folders of DICOM: series and frames as volumes, what is no slice of one, and files that are no pictures."""

from pathlib import Path

import numpy as np
import pytest

from tests.data_prep.sources import trees, volumes
from tests.data_prep.sources.test_general import reasons, run
from tests.modalities.volume import written as files
from vlp_prep.cli import main

AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]


def slice_of(raw: Path, number: int, value: int, plane: list[int], place: list[int], **elements: object) -> None:
    pixels = np.zeros((16, 16), np.uint16)
    pixels[4:12, 4:12] = value
    where = {"ImageOrientationPatient": plane, "ImagePositionPatient": place, "InstanceNumber": number}
    ids = {"SeriesInstanceUID": "1.5", "StudyInstanceUID": "1.4", "PatientID": "P"}
    trees.dicom(raw / f"{number}.dcm", pixels, **{**ids, **where, **elements})


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLP_PREP_KEY", "a secret of this hospital")


WORDS = ("--series", "volume", "--no-text", "keep", "--split", "none")


def stack(raw: Path, array: np.ndarray, name: str = "s", **elements: object) -> np.ndarray:
    """Write [n, rows, columns] as axial slices 2 mm apart, their files numbered from the head down."""
    ids = {"StudyInstanceUID": "1.4", "PatientID": "P", "SeriesInstanceUID": "1.5"}
    positions = files.steps(len(array))[::-1]
    files.series(raw, array[::-1], positions, prefix=name, **{**ids, **elements})  # type: ignore[arg-type]
    return array[:, ::-1, ::-1]  # [z, y, x] in RAS: rows go to the back, columns to the left


def test_a_series_becomes_a_volume_in_the_order_of_its_positions(tmp_path: Path) -> None:
    expected = stack(tmp_path / "raw", files.ct((10, 12, 9)))
    trees.put(tmp_path / "raw/report.txt", "No nodule.")
    (sample,) = run("dicom_folder", tmp_path / "raw", "--reports", "sidecar", *WORDS).values()
    assert np.array_equal(volumes.voxels(sample), expected)
    assert sample.modality == "CT" and sample.volume is not None and np.allclose(sample.volume.spacing, (2, 1, 1))
    assert sample.report is not None and sample.report.text == "No nodule."


def test_a_localizer_and_what_is_too_few_are_left_out_and_counted_apart(tmp_path: Path) -> None:
    raw, planes = tmp_path / "raw", [(AXIAL, [0, 0, 1]), (SAGITTAL, [1, 0, 0]), (CORONAL, [0, 1, 0])]
    for number in range(6):
        plane, step = planes[number % 3]
        place = [number * part for part in step]
        slice_of(raw, number, 50, plane, place, SeriesInstanceUID="1.7", PixelSpacing=[1, 1])
    slice_of(raw, 9, 50, AXIAL, [0, 0, 0], SeriesInstanceUID="1.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    stack(raw, files.ct((10, 12, 9)))
    assert len(run("dicom_folder", raw, *WORDS)) == 1  # four of five, and the limit is one in a hundred
    assert list(reasons(raw).values()) == ["no_volume"] * 4


def test_phases_of_one_series_are_volumes_of_one_study(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    arrays = [stack(raw, files.ct((10, 12, 9), seed), f"p{seed}", AcquisitionNumber=seed + 1) for seed in range(2)]
    found = list(run("dicom_folder", raw, *WORDS).values())
    assert [dict(sample.groups)["sequence"] for sample in found] == [
        "AcquisitionNumber 1 of 2",
        "AcquisitionNumber 2 of 2",
    ]
    assert len({sample.study for sample in found}) == 1 and len({sample.key for sample in found}) == 2
    for sample, array in zip(found, arrays, strict=True):
        assert np.array_equal(volumes.voxels(sample), array)


def test_frames_of_an_enhanced_file_become_a_volume(tmp_path: Path) -> None:
    array = files.ct((10, 12, 9))
    file = files.enhanced(array, files.steps(10), [(1, 0)] * 10, PatientID="P", StudyInstanceUID="1.4")
    files.write(tmp_path / "raw", "e.dcm", file)
    (sample,) = run(
        "dicom_folder", tmp_path / "raw", "--frames", "volume", "--no-text", "keep", "--split", "none"
    ).values()
    assert np.array_equal(volumes.voxels(sample), array[:, ::-1, ::-1])


@pytest.mark.parametrize("wrong", ["missing", "uneven", "not_rescaled", "damaged"])
def test_a_series_that_is_not_regular_is_refused_by_its_name(wrong: str, tmp_path: Path) -> None:
    raw, array = tmp_path / "raw", files.ct((12, 12, 9))
    stack(raw, array + 2000 if wrong == "not_rescaled" else array)
    path = raw / "s005"
    if wrong == "missing":
        path.unlink()
    if wrong == "damaged":
        path.write_bytes(path.read_bytes()[:-100])
    if wrong == "uneven":
        files.write(raw, "s005", files.slice_of(array[5], [0, 0, 12.7], SeriesInstanceUID="1.5", PatientID="P"))
    words = [
        "build",
        "dicom_folder",
        "--raw",
        str(raw),
        "--out",
        str(tmp_path / "out-1"),
        *WORDS,
        "--max-rejected",
        "1",
    ]
    assert main(words) == 0
    expected = {
        "missing": "missing_slices",
        "uneven": "uneven_gaps",
        "not_rescaled": "not_rescaled",
        "damaged": "image_truncated",
    }
    assert list(reasons(raw).values()) == [expected[wrong]]
    if wrong == "missing":
        assert len(run("dicom_folder", raw, *WORDS, "--gaps", "fill")) == 1


def test_a_series_of_a_head_says_that_a_face_can_be_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack(tmp_path / "raw", files.ct((10, 12, 9)), BodyPartExamined="HEAD")
    (sample,) = run("dicom_folder", tmp_path / "raw", *WORDS).values()
    assert "may show a face" in sample.steps
    assert "1 of 1 volumes seem to be of a head" in capsys.readouterr().err


def test_what_is_no_picture_is_left_out_counted_and_no_bad_data(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    slice_of(raw, 0, 50, AXIAL, [0, 0, 0])
    for number, modality in enumerate(["SEG", "RTDOSE", "SR", "PR", "KO"], 1):
        slice_of(raw, number, 1, AXIAL, [0, 0, number], Modality=modality)
    words = (
        "--no-text",
        "keep",
        "--format",
        "png",
        "--split",
        "none",
    )  # five of six, and the limit is one in a hundred
    assert len(run("dicom_folder", raw, *words)) == 1
    assert sorted(reasons(raw).values()) == ["not_an_image"] * 5
    assert len(run("dicom_folder", raw, *words, "--modalities", "SEG")) == 1


def test_what_a_series_may_hold_is_limited_before_it_is_read(tmp_path: Path) -> None:
    stack(tmp_path / "raw", files.ct((10, 12, 9)))
    stack(tmp_path / "raw", files.ct((8, 12, 9)), "t", SeriesInstanceUID="1.6")
    words = (*WORDS, "--max-voxels", 1000, "--max-rejected", 1)
    assert len(run("dicom_folder", tmp_path / "raw", *words)) == 1
    assert set(reasons(tmp_path / "raw").values()) == {"volume_too_large"}


def test_a_header_that_names_the_patient_in_its_fields_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = {"Modality": "MUSTER", "ViewPosition": "ANNA", "PatientSex": "MUSTER", "BodyPartExamined": "ANNA MUSTER"}
    slice_of(tmp_path / "raw", 0, 50, AXIAL, [0, 0, 0], **typed)
    capfd.readouterr()
    (one,) = run("dicom_folder", tmp_path / "raw", "--no-text", "keep").values()
    assert (one.modality, one.view, dict(one.groups)) == ("OT", "unknown", {"sex": "unknown"})
    said = "".join(capfd.readouterr())
    assert "MUSTER" not in said.upper() and "ANNA" not in said.upper()
