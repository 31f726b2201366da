"""CT-RATE in a miniature of its published layout: both versions of its files, its studies, its lists, its texts."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.data_prep.sources import trees, volumes
from tests.data_prep.sources.test_chest import reasons, run
from tests.modalities.volume import written as files
from vlp.data.shards.manifest import Manifest
from vlp_prep.cli import main
from vlp_prep.sources.ct_rate import LABELS

AFFINE = np.diag([-0.7, -0.7, 1.5, 1.0])
REPORT = ("Findings_EN", "Impressions_EN")
TEXTS = {
    "valid_1_a": ("The lungs are clear.", "No acute disease."),
    "valid_2_a": ("The lungs are clear.", "Not given."),
    "train_1_a": ("A nodule in the left lung.", "Nodule."),
    "train_2_a": ("Not given.", "Not given."),
}
INTERCEPTS = {"valid": -8192, "train": -1024}
NAMES = ("valid_1_a_1", "valid_1_a_2", "valid_2_a_1", "train_1_a_1", "train_1_a_2", "train_2_a_1")


def split_of(name: str) -> str:
    return name.partition("_")[0]


def study_of(name: str) -> str:
    return name.rpartition("_")[0]


def hu(name: str) -> np.ndarray:
    return files.ct((10, 12, 9), NAMES.index(name))


def dataset(raw: Path, version: str, **changed: Any) -> Path:
    """Write six volumes of four studies with all tables; `changed` cells by the volume's name."""
    for name in NAMES:
        split, patient = split_of(name), "_".join(name.split("_")[:2])
        folder = raw / f"dataset/{split}{'_fixed' if version == 'v2' else ''}/{patient}/{study_of(name)}"
        folder.mkdir(parents=True, exist_ok=True)
        if version == "v2":
            files.nifti(folder / f"{name}.nii.gz", hu(name), AFFINE)
        else:
            stored = nibabel.Nifti1Image((hu(name) - INTERCEPTS[split]).astype(np.float32), None)
            nibabel.save(stored, folder / f"{name}.nii.gz")
    for split, long in (("train", "train"), ("valid", "validation")):
        rows, about, labels = [], [], []
        for at, name in enumerate(name for name in NAMES if split_of(name) == split):
            file, own = {"VolumeName": f"{name}.nii.gz"}, changed.get(name, {})
            rows.append({**file, **dict(zip(REPORT, TEXTS[study_of(name)], strict=True)), **own.get("report", {})})
            place = {"ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]", "XYSpacing": "[0.7, 0.7]", "ZSpacing": 1.5}
            values = {"RescaleSlope": 1, "RescaleIntercept": INTERCEPTS[split], "StudyDate": "20210427"}
            person = {"PatientSex": "F", "PatientAge": "036Y", "Manufacturer": "SIEMENS", "ConvolutionKernel": "B30f"}
            about.append({**file, **place, **values, **person, **own.get("metadata", {})})
            stated = dict.fromkeys(LABELS, 0) | {"Lung nodule": int(split == "train")} | own.get("labels", {})
            labels.append({**file, **stated})
            assert at < 9
        trees.table(raw / f"dataset/radiology_text_reports/{long}_reports.csv", rows)
        trees.table(raw / f"dataset/metadata/{long}_metadata.csv", about)
        trees.table(raw / f"dataset/multi_abnormality_labels/{split}_predicted_labels.csv", labels)
        trees.put(raw / f"dataset/metadata/no_chest_{split}.txt", changed.get("no_chest", ""))
    return raw


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_give_the_same_voxels(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = dataset(tmp_path / "raw", version)
    found = run("ct_rate", raw, f"source.version={version}", "--max-rejected", 1)
    assert sorted(found) == sorted(set(NAMES) - {"train_2_a_1"}) and reasons(raw) == {"train_2_a_1": "no_text"}
    for name, sample in found.items():
        assert np.array_equal(volumes.voxels(sample), volumes.in_ras(hu(name)))
        assert sample.volume is not None and np.allclose(sample.volume.spacing, (1.5, 0.7, 0.7))
        assert (sample.study, sample.patient) == (study_of(name), study_of(name)[:-2]) and sample.modality == "CT"
        assert sample.split == "test" if split_of(name) == "valid" else sample.split in ("train", "val")
        assert sample.labels["Lung nodule"] == int(split_of(name) == "train") and len(sample.labels) == 18
        assert dict(sample.groups) == {}
    assert len(found) == 5 and len({sample.study for sample in found.values()}) == 3  # volumes of studies
    assert "5 volumes, 3 studies, 3 patients" in capsys.readouterr().out
    (out,) = tmp_path.glob("out-*")
    assert {shard.version for shard in Manifest.read(out).shards} == {version}
    second = found["valid_2_a_1"].report
    assert second is not None and second.findings == "The lungs are clear." and second.impression == ""


WRONG = [("v2", "v1", "rescaled_twice"), ("v1", "v2", "no_orientation"), ("filled", "v2", "not_rescaled")]


@pytest.mark.parametrize(("written", "read", "reason"), WRONG)
def test_the_wrong_switch_is_refused(written: str, read: str, reason: str, tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", "v1" if written == "v1" else "v2")
    if written == "filled":  # headers of v2 on values of v1
        for path in raw.rglob("*.nii.gz"):
            name = path.name.removesuffix(".nii.gz")
            files.nifti(path, hu(name) - INTERCEPTS[split_of(name)], AFFINE)
    for suffix in ("", "_fixed"):
        for split in ("train", "valid"):
            here, there = raw / f"dataset/{split}{suffix}", raw / f"dataset/{split}{'_fixed' if read == 'v2' else ''}"
            if here.is_dir() and here != there:
                here.rename(there)
    words = [
        "build",
        "ct_rate",
        f"source.version={read}",
        "--raw",
        raw,
        "--out",
        tmp_path / "out-x",
        "--max-rejected",
        1,
    ]
    assert main([*map(str, words)]) == 0
    found = reasons(raw)
    assert {found[name] for name in NAMES} == {reason}
    lines = (tmp_path / "out-x/rejected.jsonl").read_text()
    assert f"source.version={written if written != 'filled' else 'v1'}" in lines


def test_views_of_the_validation_set_and_the_list_of_other_parts(tmp_path: Path) -> None:
    finer = {"valid_1_a_2": {"metadata": {"XYSpacing": "[0.5, 0.5]"}}}
    raw = dataset(tmp_path / "raw", "v2", **finer, no_chest="train_1_a_1.nii.gz\n")

    def shown(*words: object) -> set[str]:
        return set(run("ct_rate", raw, *words, "--max-rejected", 1))

    assert shown("source.views=first") == {"valid_1_a_1", "valid_2_a_1", "train_1_a_2"}
    assert shown("source.views=smallest") == {"valid_1_a_2", "train_1_a_2"}  # findings of the other study are equal
    assert shown("source.no_chest=drop_study") == {"valid_1_a_1", "valid_1_a_2", "valid_2_a_1"}
    assert "train_1_a_1" in shown("source.no_chest=keep")


def test_what_differs_within_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = dataset(tmp_path / "raw", "v2", train_1_a_2={"labels": {"Emphysema": 1}})
    assert main(["build", "ct_rate", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "1 of 2 studies have volumes with unequal labels (train_1_a_1 and train_1_a_2)" in capsys.readouterr().err
    raw = dataset(tmp_path / "two", "v2", train_1_a_2={"report": {"Findings_EN": "Another."}})
    run("ct_rate", raw, "--max-rejected", 1)
    assert reasons(raw)["train_1_a_2"] == "two_reports"


def test_rows_without_files_files_without_rows_and_known_broken_ones(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", "v2")
    (raw / "dataset/train_fixed/train_1/train_1_a/train_1_a_2.nii.gz").unlink()
    volumes.nifti(raw / "dataset/train_fixed/train_3/train_3_a/train_3_a_1.nii.gz")
    volumes.nifti(raw / "dataset/train_fixed/train_1267/train_1267_a/train_1267_a_4.nii.gz")
    run("ct_rate", raw, "--max-rejected", 1)
    found = reasons(raw)
    assert (found["train_1_a_2"], found["train_3_a_1"]) == ("image_missing", "file_without_row")


def test_nothing_of_a_person_is_carried_over_unless_asked(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", "v2")
    run("ct_rate", raw, "--max-rejected", 1)
    (out,) = tmp_path.glob("out-*")
    kept = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for secret in (b"20210427", b"036Y", b"SIEMENS", b"B30f"):
        assert secret not in kept
    asked = run("ct_rate", raw, "--max-rejected", 1, "source.groups=[sex,age]")
    assert dict(asked["train_1_a_1"].groups) == {"sex": "F", "age": "36"}


def test_the_other_version_s_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = dataset(tmp_path / "raw", "v1")
    assert main(["build", "ct_rate", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "the folders of v1 are there: source.version=v1" in capsys.readouterr().err
