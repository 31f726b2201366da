"""Folders of volumes: which row is of which volume, masks and boxes in their place, and what is refused."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.data_prep.sources import trees, volumes
from tests.data_prep.sources.test_chest import reasons, run
from tests.modalities.volume import written as files
from vlp.modalities.volume import store
from vlp_prep.cli import main

NAMES = ("--names", r"(?P<study>(?P<patient>[^/]+)_\d+)_\d+$")


def test_volumes_of_a_study_share_the_report_of_its_row(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    arrays = {
        name: volumes.nifti(raw / f"{name}.nii.gz", at) for at, name in enumerate(("p1/p1_1_1", "p1/p1_1_2", "p2_1_1"))
    }
    rows = [{"study": "p1_1", "report": "No nodule."}, {"study": "p2_1", "report": "A nodule."}]
    trees.table(raw / "reports.csv", rows)
    found = run("nifti", raw, "--table", "reports.csv", *NAMES)
    assert {
        key: (sample.study, sample.patient, sample.report and sample.report.text) for key, sample in found.items()
    } == {
        "p1_p1_1_1": ("p1_1", "p1", "No nodule."),
        "p1_p1_1_2": ("p1_1", "p1", "No nodule."),
        "p2_1_1": ("p2_1", "p2", "A nodule."),
    }
    for key, name in zip(found, sorted(arrays), strict=True):
        assert np.array_equal(volumes.voxels(found[key]), volumes.in_ras(arrays[name]))
    sample = found["p2_1_1"]
    assert sample.modality == "CT" and sample.volume is not None and sample.volume.orientation == "LPS"
    assert np.allclose(sample.volume.spacing, (1.5, 0.7, 0.7)) and sum(sample.volume.histogram) == np.prod(
        volumes.SHAPE
    )
    assert len({sample.split for sample in found.values() if sample.patient == "p1"}) == 1


@pytest.mark.parametrize("named", ["sub/a.nii.gz", "a.nii.gz", "a", "sub/a"])
def test_a_row_finds_its_volume_by_path_or_name(named: str, tmp_path: Path) -> None:
    volumes.nifti(tmp_path / "raw/sub/a.nii.gz")
    trees.table(tmp_path / "raw/t.csv", [{"file_name": named, "text": "No nodule.", "patient": "p"}])
    (sample,) = run("nifti", tmp_path / "raw", "--table", "t.csv").values()
    assert sample.key == "sub_a" and sample.patient == "p" and sample.report is not None


def test_rows_without_a_file_and_files_without_a_row_are_counted(tmp_path: Path) -> None:
    volumes.nifti(tmp_path / "raw/a.nii")
    volumes.nifti(tmp_path / "raw/b.nii")
    trees.table(tmp_path / "raw/t.csv", [{"image": "a", "report": "Clear."}, {"image": "c.nii", "report": "Clear."}])
    assert list(run("nifti", tmp_path / "raw", "--table", "t.csv", "--max-rejected", 1)) == ["a"]
    assert reasons(tmp_path / "raw") == {"b": "no_text", "c": "image_missing"}


def affine_of(codes: str, degrees: float = 0) -> np.ndarray:
    """Return an affine of these axes with spacings of .7, .8 and 1.5 mm, turned about the way to the head."""
    start = nibabel.orientations.axcodes2ornt(codes)
    turned = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(start):
        turned[int(world), axis] = sign * (0.7, 0.8, 1.5)[axis]
    turned[:3, 3], turned[3, 3] = (3, -5, 7), 1
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ turned


ORIENTATIONS = {"RAS": 0, "LPS": 0, "LAS": 0, "IPL": 0, "ASR": 0, "SRA": 0, "PIR": 25}


def test_voxels_masks_and_boxes_keep_their_place_whatever_the_orientation(tmp_path: Path) -> None:
    raw, place, rows, expected = tmp_path / "raw", (slice(2, 5), slice(1, 8), slice(4, 6)), [], {}
    (raw / "masks").mkdir(parents=True)
    for codes, degrees in ORIENTATIONS.items():
        affine = affine_of(codes, degrees)
        array = volumes.nifti(raw / f"{codes}.nii.gz", 1, affine)
        inside = np.zeros(array.shape, np.uint8)
        inside[place] = 3
        inside[0, 0, 0] = 1
        canonical = [nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine)) for voxels in (array, inside)]
        nibabel.save(canonical[1], raw / f"masks/{codes}-seg.nii.gz")  # of another orientation, at the same place
        expected[codes] = [np.asarray(image.dataobj).transpose(2, 1, 0) for image in canonical]
        rows.append({"image": codes, "report": "A nodule.", "boxes": json.dumps({"nodule": [2, 1, 4, 5, 8, 6]})})
    trees.table(raw / "t.csv", rows)
    found = run("nifti", raw, "--table", "t.csv", "--masks", "nodule={folder}/masks/{stem}-seg.nii.gz#3")
    assert found.keys() == ORIENTATIONS.keys()
    for codes, sample in found.items():
        array, inside = expected[codes]
        assert np.array_equal(volumes.voxels(sample), array)
        assert np.array_equal(store.decode_mask(sample.masks["nodule"], 1 << 20), inside == 3)
        x1, y1, z1, x2, y2, z2 = (int(edge) for edge in sample.boxes[0].xyxy)
        marked = np.zeros(array.shape, bool)
        marked[z1:z2, y1:y2, x1:x2] = True
        assert np.array_equal(marked, inside == 3)
        assert sample.volume is not None and sample.volume.orientation == codes


@pytest.mark.parametrize("change", ["size", "shifted", "mirrored"])
def test_a_mask_of_another_geometry_is_refused(change: str, tmp_path: Path) -> None:
    raw, affine = tmp_path / "raw", np.diag([-0.7, -0.7, 1.5, 1.0])
    volumes.nifti(raw / "a.nii.gz", 0, affine)
    mask = np.ones((10, 12, 8) if change == "size" else volumes.SHAPE, np.uint8)
    other = affine.copy()
    if change == "shifted":
        other[0, 3] += 0.35
    if change == "mirrored":
        other[0, 0] *= -1
    files.nifti(raw / "a_lung.nii.gz", mask, other)
    words = ("--no-text", "keep", "--masks", "lung={folder}/{stem}_lung.nii.gz", "--max-rejected", 1)
    assert main(["build", "nifti", "--raw", str(raw), "--out", str(tmp_path / "out-x"), *map(str, words)]) == 0
    assert reasons(raw) == {"a": "bad_mask"}


@pytest.mark.parametrize("unequal", ["reports", "labels"])
def test_volumes_of_one_study_that_differ_in_what_they_share_are_refused(
    unequal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        volumes.nifti(tmp_path / f"raw/p_1_{number}.nii", number)
    texts = ["Clear.", "A nodule."] if unequal == "reports" else ["Clear."] * 2
    rows = [
        {"image": f"p_1_{at}", "report": text, "labels": "nodule" if at else "mass"} for at, text in enumerate(texts)
    ]
    trees.table(tmp_path / "raw/t.csv", [{**row, "labels": ""} for row in rows] if unequal == "reports" else rows)
    words = [
        "build",
        "nifti",
        "--raw",
        str(tmp_path / "raw"),
        "--table",
        "t.csv",
        *NAMES,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"1 of 1 studies have volumes with unequal {unequal} (p_1_0 and p_1_1)" in said


def test_sequences_of_an_mr_are_volumes_of_one_study(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for sequence in ("t1n", "t2f"):
        path = tmp_path / f"raw/BraTS-GLI-00459-000/BraTS-GLI-00459-000-{sequence}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.nifti(path, rng.integers(0, 3000, volumes.SHAPE).astype(np.float32))
    files.nifti(path.with_name("BraTS-GLI-00459-000-seg.nii.gz"), np.ones(volumes.SHAPE, np.uint8))
    names = r"(?P<study>(?P<patient>BraTS-GLI-\d+)-\d+)-(?P<sequence>\w+)$"
    words = ("--no-text", "keep", "--modality", "MR", "--names", names, "--masks", "tumour={folder}/*-seg.nii.gz")
    found = run("nifti", tmp_path / "raw", *words)
    assert {dict(sample.groups)["sequence"] for sample in found.values()} == {"t1n", "t2f"} and len(found) == 2
    for sample in found.values():
        assert (sample.modality, sample.patient, list(sample.masks)) == ("MR", "BraTS-GLI-00459", ["tumour"])
        assert store.decode(bytes(sample.image), 1 << 20).range is not None  # type: ignore[arg-type]
