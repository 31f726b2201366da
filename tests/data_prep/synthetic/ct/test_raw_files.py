"""The phantom is the oracle: whatever file a body comes in, preparation gives the body's mean over each voxel again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from vlp.modalities.volume.processor import VolumeProcessor
from vlp.modalities.volume.read import read_volume
from vlp.modalities.volume.spec import VolumeSpec
from vlp.modalities.volume.volume import Volume, orientation
from vlp_prep.cli import main
from vlp_prep.synthetic.ct import body
from vlp_prep.synthetic.ct.files import write_dicom, write_nifti
from vlp_prep.synthetic.ct.generate import box_of, boxes, words
from vlp_prep.synthetic.ct.raw import DICOM, NIFTI, ROUND, Study, forms_of, split_of
from vlp_prep.synthetic.ct.scan import FORMS, Form, scan
from vlp_prep.synthetic.ct.state import State, draw_state

SPEC = VolumeSpec(spacing=(6.0, 6.0, 6.0), size=(44, 36, 44), windows=("lung",))
CORRELATION, ERROR = 0.99, 25.0
VOXEL = 3.0


def expected(state: State, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the mean of a body over each voxel of [D, H, W], by 27 points each; `affine` from (x, y, z) to millimetres."""
    total = np.zeros(shape)
    for place in np.ndindex(3, 3, 3):
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ ((np.array(place) - 1) / 3)
        total += body.hounsfield(state, body.grid((shape[2], shape[1], shape[0]), moved)).transpose(2, 1, 0)
    return total / 27


def agreement(
    state: State, volume: Volume, change: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> tuple[float, float]:
    """Return correlation and mean error in HU of a prepared volume, changed before it is compared, and its body."""
    processor = VolumeProcessor(SPEC)
    values, geometry = processor.eval(volume)
    truth = expected(state, processor.affine(volume, geometry), SPEC.size)
    found = change(values[0].numpy())
    inside = slice(1, -1), slice(1, -1), slice(1, -1)
    return float(np.corrcoef(found[inside].ravel(), truth[inside].ravel())[0, 1]), float(
        np.abs(found - truth)[inside].mean()
    )


def written(folder: Path, state: State, form: Form, voxel: float = VOXEL) -> Path:
    drawn = scan(state, form, voxel)
    path = folder / (f"{form.name}.nii" if not form.is_dicom else form.name)
    if form.is_dicom:
        write_dicom(path, drawn, form, "patient", "study", form.name)
    else:
        write_nifti(path, drawn)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_each_raw_form_prepared_is_the_body_again(name: str, tmp_path: Path) -> None:
    state, form = draw_state(list(FORMS).index(name), 3), FORMS[name]
    volume = read_volume(written(tmp_path, state, form), 10**7)
    correlation, error = agreement(state, volume)
    assert correlation >= CORRELATION and error <= ERROR, (name, correlation, error)
    assert orientation(volume.file_affine()) == form.codes


MISTAKES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "left for right": lambda values: values[:, :, ::-1],
    "front for back": lambda values: values[:, ::-1],
    "head for foot": lambda values: values[::-1],
    "axes exchanged": lambda values: values.transpose(2, 1, 0),
    "one voxel beside": lambda values: np.roll(values, 1, 2),
    "rescaled twice": lambda values: values - 1024,
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("index", [0, 5])
def test_a_mistake_of_preparation_is_seen(mistake: str, index: int, tmp_path: Path) -> None:
    state = draw_state(index, 3)
    volume = read_volume(written(tmp_path, state, FORMS["ras"], 6.0), 10**7)
    correlation, error = agreement(state, volume, MISTAKES[mistake])
    assert correlation < CORRELATION or error > 2 * ERROR, (correlation, error)


def test_all_forms_of_a_body_agree_with_each_other_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    state = draw_state(1, 3)
    straight = [form for form in FORMS.values() if not form.turned]
    volumes = [read_volume(written(tmp_path, state, form), 10**7) for form in straight]
    first, *others = [VolumeProcessor(SPEC).eval(volume)[0].numpy()[0] for volume in volumes]
    for other in others:
        assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.985
        assert np.corrcoef(first.ravel(), other[:, :, ::-1].ravel())[0, 1] < 0.93


def test_dicom_slices_are_numbered_from_the_top_and_their_padding_is_air(tmp_path: Path) -> None:
    state = draw_state(2, 3)
    folder = written(tmp_path, state, FORMS["dicom_padded"], 8.0)
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    heights = [float(file.ImagePositionPatient[2]) for file in slices]
    assert heights == sorted(heights) and [int(file.InstanceNumber) for file in slices] == list(
        range(len(slices), 0, -1)
    )
    assert slices[0].pixel_array.min() == -2000 and slices[0].PixelRepresentation == 1
    assert np.asarray(read_volume(folder, 10**7).voxels).min() >= -1024
    unsigned = pydicom.dcmread(next(iter(written(tmp_path, state, FORMS["dicom_8192"], 8.0).iterdir())))
    assert unsigned.PixelRepresentation == 0 and unsigned.RescaleIntercept == -8192


def test_boxes_of_a_form_lie_around_the_finding_in_millimetres(tmp_path: Path) -> None:
    index = next(index for index in range(100) if draw_state(index, 3).find("mass"))
    state = draw_state(index, 3)
    mass = state.find("mass")
    assert mass is not None
    centre = np.array(mass.centre) * state.scale + state.shift
    for name in ("ras", "lps", "sagittal", "oblique", "dicom_1024"):
        volume = read_volume(written(tmp_path, state, FORMS[name]), 10**7)
        drawn = scan(state, FORMS[name], VOXEL)
        in_file = box_of(drawn.regions["mass"].transpose())  # i, j, k
        middle = drawn.affine[:3, :3] @ ((np.array(in_file[:3]) + in_file[3:]) / 2 - 0.5) + drawn.affine[:3, 3]
        assert np.abs(middle - centre).max() < 4, name
        turned = {finding: volume.axes.to_volume(mask) for finding, mask in drawn.regions.items()}
        box = next(box for box in boxes(state, turned) if box.label == "mass")
        middle = volume.world(((np.array(box.xyxy[:3]) + box.xyxy[3:]) / 2)[::-1])
        assert np.abs(middle - centre).max() < 4, name


def test_the_command_writes_files_and_tables_that_agree(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    assert main(["phantoms", "--out", str(out), "--n", "24", "--seed", "5", "--voxel", "16", "--workers", "0"]) == 0
    rows = [json.loads(line) for line in (out / "nifti" / "reports.jsonl").read_text().splitlines()]
    assert all((out / "nifti" / row["image"]).is_file() and set(row["labels"].values()) <= {0, 1} for row in rows)
    assert len({row["image"] for row in rows}) == len(rows) == len(list((out / "nifti").glob("*.nii")))
    series = [path for path in (out / "dicom").glob("*/*") if path.is_dir()]
    assert len(series) >= 3 and (out / "dicom" / "reports.csv").read_text().count("ctp5-") == 3
    studies = {row["study"] for row in rows}
    assert sum(len([row for row in rows if row["study"] == study]) == 2 for study in studies) == 7
    first = next(row for row in rows if row["study"] == "cts5-0")
    assert first["report"] == words(draw_state(0, 5)).text and first["state"] == str(draw_state(0, 5))
    assert main(["phantoms", "--out", str(out), "--n", "2"]) == 2
    assert main(["phantoms", "--out", str(tmp_path / "other"), "--n", "2", "--voxel", "0"]) == 2


def test_each_form_occurs_and_a_patient_has_one_split() -> None:
    assert set(ROUND) == {*NIFTI, *DICOM}
    assert {form for index in range(69) for form in forms_of(index)} == set(FORMS.values())
    splits = [split_of(Study(Path(), index, 0, 6.0)) for index in range(600)]
    assert 0.12 < splits.count("test") / 600 < 0.24 and 0.005 < splits.count("val") / 600 < 0.05
    assert all(split == "train" for index, split in enumerate(splits) if forms_of(index)[0].is_dicom)


def test_the_body_is_not_symmetric() -> None:
    state = replace(draw_state(0, 3), instances=())
    shape, affine = FORMS["ras"].grid(6.0)
    drawn = body.hounsfield(state, body.grid(shape, affine))
    for axis in range(3):
        assert np.corrcoef(drawn.ravel(), np.flip(drawn, axis).ravel())[0, 1] < 0.95
