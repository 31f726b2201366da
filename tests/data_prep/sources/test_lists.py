"""Published lists that evaluations are made of, each on a small tree of exactly the layout of its publisher."""

import json
from pathlib import Path

from tests.data_prep.sources import trees
from tests.data_prep.sources.test_chest import blank, reasons, run
from vlp_prep.cli import main
from vlp_prep.readers.chexpert import CHEXPERT


def test_chexpert5x200(tmp_path: Path) -> None:
    raw = tmp_path / "list"
    path = "CheXpert-v1.0/train/patient00005/study2/view1_frontal.jpg"
    trees.picture(tmp_path / "data" / path, 1)
    good = {"Path": path, **blank(Edema="1.0", No_Finding="0.0"), "Report Impression": "1. Mild edema."}
    bad = {**good, "Path": path.replace("00005", "00006"), "Cardiomegaly": "1.0"}
    trees.table(raw / "chexpert_5x200.csv", [good, bad])
    (one,) = run("chexpert5x200", raw, "--chexpert", tmp_path / "data", "--max-rejected", 1).values()
    assert one.split == "test" and one.labels["Edema"] == 1 and sum(one.labels.values()) == 1 and len(one.labels) == 5
    assert one.report is not None and "Mild edema." in one.report.impression
    assert list(reasons(raw).values()) == ["bad_label"]


def test_chexpert8x200(tmp_path: Path) -> None:
    raw, small = tmp_path / "convirt", "CheXpert-v1.0-small/train"
    paths = [f"{small}/patient{number:05d}/study1/view1_frontal.jpg" for number in range(4)]
    for number, path in enumerate(paths):
        trees.picture(tmp_path / "data" / path, number)
    about = {"Sex": "Male", "Age": "86", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    zeros = dict.fromkeys(CHEXPERT, "0.0")
    candidates = [
        {"Path": paths[0], **about, **zeros, "Fracture": "1.0"},
        {"Path": paths[1], **about, **zeros, "Edema": "1.0", "Pleural Effusion": "1.0"},
        {"Path": paths[2], **about, **zeros, "Lung Lesion": "1.0"},
    ]
    trees.table(raw / "image-retrieval" / "candidate.csv", candidates)
    trees.table(raw / "image-retrieval" / "query.csv", [{"Variable": "Fracture", "Path": paths[3]}])
    trees.table(raw / "text-retrieval" / "query.csv", [{"Variable": "Fracture", "Text": "A fracture is present."}])
    words = ("--chexpert", tmp_path / "data", "--max-rejected", 1)
    found = run("chexpert8x200", raw, *words)
    assert list(reasons(raw).values()) == ["bad_label"]  # of none of the eight classes
    assert {key: one.split for key, one in found.items()} == {
        "patient00000_study1_view1_frontal": "test",
        "patient00001_study1_view1_frontal": "test",
    }
    both = found["patient00001_study1_view1_frontal"]
    assert {name for name, value in both.labels.items() if value == 1} == {"Edema", "Pleural Effusion"}
    assert len(both.labels) == 14 and (both.view, both.groups) == ("AP", {"sex": "M", "age": "86"})
    asked = run("chexpert8x200", raw, *words, "--queries")["patient00003_study1_view1_frontal"]
    assert (asked.split, asked.labels) == ("query", {"Fracture": 1})


def test_chestx_det10(tmp_path: Path) -> None:
    raw = tmp_path / "chestx"
    for part, name in (("train", "00000042_006.png"), ("test", "00000003_003.png"), ("test", "00000071_008.png")):
        trees.picture(raw / f"{part}_data" / name, len(name), height=1024, width=1024)
    boxes = [[632, 721, 909, 969], [129, 611, 474, 909]]
    trees.put(
        raw / "train.json",
        json.dumps([{"file_name": "00000042_006.png", "syms": ["Fibrosis", "Fibrosis"], "boxes": boxes}]),
    )
    test = [
        {"file_name": "00000003_003.png", "syms": [], "boxes": []},
        {"file_name": "00000071_008.png", "syms": ["Effusion", "Mass"], "boxes": [[799, 666, 937, 761]]},
    ]
    trees.put(raw / "test.json", json.dumps(test))
    found = run("chestx_det10", raw, "--max-rejected", 1)
    assert reasons(raw) == {"00000071_008": "bad_box"}
    one, none = found["00000042_006"], found["00000003_003"]
    assert [(box.phrase, box.label, box.xyxy) for box in one.boxes] == [
        ("fibrosis", "Fibrosis", (632, 721, 909, 969)),
        ("fibrosis", "Fibrosis", (129, 611, 474, 909)),
    ]
    assert one.patient == "00000042" and one.split in ("train", "val") and none.split == "test"
    assert [name for name, value in one.labels.items() if value] == ["Fibrosis"] and len(one.labels) == 10
    assert not any(none.labels.values()) and none.boxes == ()
    (raw / "train.json").unlink()
    (raw / "test.json").unlink()
    assert main(["build", "chestx_det10", "--raw", str(raw), "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
