"""Sets of volumes, each in a miniature of its published layout with its quirks."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.data_prep.sources import trees, volumes
from tests.data_prep.sources.test_chest import reasons, run
from tests.modalities.volume import written as files
from vlp.core.config import read_yaml
from vlp.modalities.volume import store
from vlp_prep.cli import main
from vlp_prep.sources import merlin, rad_chestct

PLACES = ("left_lung", "other_location")


def rad(raw: Path, ids: tuple[str, ...] = ("trn00001", "val00002", "tst00003"), **present: str) -> Path:
    """Write arrays and labels; `present` is the column that is 1, by id."""
    names = sorted({part for parts in rad_chestct.STANDARD.values() for part in parts} | {"groundglass"})
    columns = [f"{name}*{place}" for name in names for place in PLACES]
    (raw / "npz").mkdir(parents=True)
    for at, name in enumerate(ids):
        np.savez_compressed(raw / f"npz/{name}.npz", ct=np.clip(files.ct((10, 12, 12), at), -1000, 1000))
    for part, short in (("train", "trn"), ("valid", "val"), ("test", "tst")):
        stated = [
            {"NoteAcc_DEID": name, **dict.fromkeys(columns, 0), **({present[name]: 1} if name in present else {})}
            for name in ids
            if name.startswith(short)
        ]
        trees.table(raw / f"img{part}_Abnormality_and_Location_Labels.csv", stated)
    trees.table(
        raw / "Summary_3630.csv", [{"NoteAcc_DEID": name, "MRN_DEID": f"m{name[-1]}"} for name in (*ids, "tst00009")]
    )
    return raw


def test_rad_chestct(tmp_path: Path) -> None:
    raw = rad(tmp_path / "raw", trn00001="calcification*left_lung", val00002="chest_tube*other_location")
    found = run("rad_chestct", raw, "--max-rejected", 1)
    assert {name: (sample.split, sample.patient, sample.report) for name, sample in found.items()} == {
        "trn00001": ("train", "m1", None),
        "val00002": ("val", "m2", None),
        "tst00003": ("test", "m3", None),
    }
    assert reasons(raw) == {"tst00009": "image_missing"}
    first = found["trn00001"]
    positive = {name for name, value in first.labels.items() if value == 1}
    assert positive == {"Arterial wall calcification", "Coronary artery wall calcification"} and len(first.labels) == 17
    assert {name for name, value in found["val00002"].labels.items() if value} == {"Medical material"}
    assert first.volume is not None and (first.volume.orientation, first.volume.spacing) == ("IPL", (0.8, 0.8, 0.8))
    array = np.clip(files.ct((10, 12, 12), 0), -1000, 1000)
    assert np.array_equal(volumes.voxels(first), array[::-1, ::-1, ::-1])  # top, front and right come first in the file
    every = run("rad_chestct", raw, "--max-rejected", 1, "source.labels=all")["trn00001"]
    assert every.labels["calcification"] == 1 and every.labels["groundglass"] == 0


def test_the_findings_of_rad_chestct_are_those_of_ct_rate() -> None:
    folder = Path(rad_chestct.__file__).parent
    names = read_yaml(folder / "ct_rate.yaml")["labels"]
    assert list(rad_chestct.STANDARD) == [name for name in names if name != "Mosaic attenuation pattern"]
    assert len(rad_chestct.STANDARD["Medical material"]) == 11


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("LIVER: Normal.\nIMPRESSION:\n1. No ascites.", "LIVER: Normal.", "1. No ascites."),
        ("FINDINGS: Liver normal. IMPRESSION(S): Normal.", "Liver normal.", "Normal."),
        (
            "LIVER: 1. A cyst.\nBOWEL: Normal.\n\n1. Stable cyst. 2. No free air.",
            "LIVER: 1. A cyst.\nBOWEL: Normal.",
            "1. Stable cyst. 2. No free air.",
        ),
        ("Liver is normal.", "Liver is normal.", ""),
    ],
)
def test_the_impression_of_a_report_of_merlin_is_found(text: str, findings: str, impression: str) -> None:
    expected = f"FINDINGS: {findings}" + (f"\nIMPRESSION: {impression}" if impression else "")
    assert merlin.report_of(text) == expected


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_merlin(ending: str, tmp_path: Path) -> None:
    base = tmp_path / "raw/merlinabdominalctdataset"
    rows: list[dict[str, Any]] = [
        {"study id": "AC1", "Findings": "Liver normal. IMPRESSION: Normal.", "Split": "train", "Few shot": ""},
        {"study id": "AC2", "Findings": "No fluid.\n1. Ascites.\n2. Cyst.", "Split": "test", "Few shot": ""},
        {"study id": "AC3", "Findings": "", "Split": "val", "Few shot": ""},
    ]
    for at, row in enumerate(rows):
        volumes.nifti(base / f"merlin_data/{row['study id']}.nii.gz", at)
    volumes.nifti(base / "merlin_data/AC9.nii.gz")
    if ending == "csv":
        trees.table(base / "reports_final.csv", rows)
    else:
        if importlib.util.find_spec("openpyxl") is None:
            pytest.skip("openpyxl is not installed")
        import openpyxl

        book = openpyxl.Workbook()
        for cells in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(cells)
        book.save(base / "reports_final.xlsx")
    trees.table(
        base / "zero_shot_findings_disease_cls.csv",
        [{"study id": "AC1", "ascites": 0, "renal cyst": -1, "fracture": 1}],
    )
    trees.table(base / "metadata.csv", [{"study id": row["study id"], "age": 61, "gender": "F"} for row in rows])
    found = run("merlin", tmp_path / "raw", "--max-rejected", 1)
    assert {key: sample.split for key, sample in found.items()} == {"AC1": "train", "AC2": "test"}
    assert reasons(tmp_path / "raw") == {"AC3": "no_text", "AC9": "no_text"}
    assert found["AC1"].labels == {"ascites": 0, "fracture": 1}  # what is not mentioned is no negative
    assert found["AC1"].report is not None and found["AC1"].report.impression == "Normal."
    assert found["AC2"].report is not None and "Ascites" in found["AC2"].report.impression
    assert not found["AC1"].groups


def test_inspect(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    images = {"PEa": "1", "PEb": "1", "PEc": "2", "PE877f77": "3", "PEd": "4"}
    for at, image in enumerate((*images, "PEz")):
        volumes.nifti(raw / f"full/CTPA/{image}.nii.gz", at)

    def tsv(name: str, rows: list[dict[str, str]]) -> None:
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        trees.put(raw / f"full/{name}.tsv", "\n".join(lines) + "\n")

    mapping = [{"impression_id": study, "image_id": image} for image, study in images.items()]
    tsv("study_mapping_20250611", [*mapping, mapping[0], {"impression_id": "5", "image_id": "PEd"}])
    tsv("study_mapping_20240101", [{"impression_id": "9", "image_id": "PEa"}])
    impressions = {"1": "No embolism.", "2": "Embolism.", "3": "Clear.", "4": "A.", "5": "B."}
    tsv("impressions_20250611", [{"impression_id": key, "impressions": text} for key, text in impressions.items()])
    sides = {"1": "train", "2": "valid", "3": "test", "4": "test", "5": "test"}
    tsv("splits_20250611", [{"impression_id": key, "split": side} for key, side in sides.items()])
    found = run("inspect", raw, "--max-rejected", 1)
    assert {key: (sample.study, sample.split) for key, sample in found.items()} == {
        "PEa": ("1", "train"),
        "PEb": ("1", "train"),
        "PEc": ("2", "val"),
    }
    assert reasons(raw) == {"PE877f77": "broken_volume", "PEd": "two_reports", "PEz": "file_without_row"}
    assert found["PEa"].report is not None and found["PEa"].report.impression == "No embolism."
    assert found["PEa"].report.findings == ""


def test_m3d_cap(tmp_path: Path) -> None:
    raw, rng = tmp_path / "raw", np.random.default_rng(0)
    array = rng.integers(0, 255, (12, 6, 7)).astype(np.uint8)
    case = raw / "M3D_Cap/ct_quizze/000017"
    for number, plane in enumerate(array):
        folder = case / "Axial_C\u00e9"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), plane)
    cv2.imwrite(str(folder / "12.png"), array[0, :4])
    (case / "Coronal").mkdir()
    cv2.imwrite(str(case / "Coronal/1.jpeg"), array[0])
    trees.put(case / "text.txt", "presentation: pain study_findings: A cyst. ")
    listed = {"image": "M3D_Cap_npy/ct_quizze/000017/Axial_C.npy", "text": "M3D_Cap_npy/ct_quizze/000017/text.txt"}
    trees.put(raw / "M3D_Cap/M3D_Cap.json", json.dumps({"train": [], "validation": [listed], "test": []}))
    found = run("m3d_cap", raw, "--max-rejected", 1)
    ((key, sample),) = found.items()
    assert key.startswith("ct_quizze_000017_Axial_C") and key.isascii() and sample.study == "ct_quizze_000017"
    assert sample.split == "val"
    assert sample.report is not None and sample.report.text == "A cyst." and sample.modality == "OT"
    assert np.array_equal(volumes.voxels(sample), array[:, ::-1, ::-1])
    assert sample.volume is not None and (sample.volume.spacing, sample.volume.orientation) == ((0, 0, 0), "unknown")
    assert (
        any("neither HU nor spacing" in step for step in sample.steps)
        and "left out: 1 slices of other sizes" in sample.steps
    )
    assert list(reasons(raw).values()) == ["no_volume"]


def test_what_asks_for_millimetres_refuses_a_volume_without_any(tmp_path: Path) -> None:
    from vlp.modalities.image.errors import ImageError
    from vlp.modalities.volume.processor import VolumeProcessor
    from vlp.modalities.volume.spec import VolumeSpec

    for number in range(8):
        trees.picture(tmp_path / f"raw/ct_case/1/s/{number}.png", number)
    trees.put(tmp_path / "raw/ct_case/1/t.txt", "Pain.")
    (sample,) = run("m3d_cap", tmp_path / "raw").values()
    with pytest.raises(ImageError, match="spacing is unknown"):
        VolumeProcessor(VolumeSpec()).read(bytes(sample.image))  # type: ignore[arg-type]
    assert store.decode(bytes(sample.image), 1 << 20).range is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ct_rate", "rad_chestct", "merlin", "inspect", "m3d_cap", "nifti"])
def test_a_folder_of_another_set_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    assert main(["build", name, "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 2
    assert name in capsys.readouterr().err
