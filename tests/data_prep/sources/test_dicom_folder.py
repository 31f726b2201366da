"""Folders of DICOM: planes of a localizer, one grey scale for a series, and files that are no pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data_prep.sources import trees
from tests.data_prep.sources.test_general import reasons, run

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


WORDS = ("--series", "volume", "--no-text", "keep", "--format", "png", "--split", "none")


def middles(found: dict[str, object]) -> list[list[int]]:
    images = [cv2.imdecode(np.frombuffer(bytes(one.image), np.uint8), cv2.IMREAD_UNCHANGED) for one in found.values()]  # type: ignore[attr-defined]
    return sorted([int(part[8, 8]) for part in image.reshape(-1, 16, 16)] for image in images)


def test_a_localizer_becomes_a_volume_of_each_plane(tmp_path: Path) -> None:
    planes = [(AXIAL, [0, 0, 1]), (SAGITTAL, [1, 0, 0]), (CORONAL, [0, 1, 0])]
    for number in range(6):
        plane, step = planes[number % 3]
        slice_of(tmp_path / "raw", number, 50 + number, plane, [number * one for one in step])
    found = run("dicom_folder", tmp_path / "raw", *WORDS)
    assert len(found) == 3 and all(len(volume) == 2 for volume in middles(found))


@pytest.mark.parametrize("window", [False, True])
def test_equal_values_in_a_series_are_equal_greys(window: bool, tmp_path: Path) -> None:
    for number, value in enumerate([100, 100, 1000, 1000]):
        own = {"WindowCenter": str(value // 2), "WindowWidth": str(value)} if window else {}
        slice_of(tmp_path / "raw", number, value, AXIAL, [0, 0, number], **own)
    (volume,) = middles(run("dicom_folder", tmp_path / "raw", *WORDS))
    assert volume[0] == volume[1] < 40 and volume[2] == volume[3] > 250


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
    for number in range(4):
        slice_of(tmp_path / "raw", number, 50, AXIAL, [0, 0, number])
    slice_of(tmp_path / "raw", 9, 50, AXIAL, [0, 0, 0], SeriesInstanceUID="1.6")
    words = (*WORDS, "--max-pixels", 1000, "--max-rejected", 1)
    assert len(run("dicom_folder", tmp_path / "raw", *words)) == 1
    assert set(reasons(tmp_path / "raw").values()) == {"image_too_large"}


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
