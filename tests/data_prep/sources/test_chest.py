"""Chest radiograph sets, each on a small tree of exactly the layout that its publisher distributes."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.data_prep.sources import trees
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_prep.cli import main
from vlp_prep.readers.chexpert import CHEXPERT
from vlp_prep.sources.siim_acr import decode_rle
from vlp_prep.sources.vindr_cxr import merge_boxes, overlap


def run(name: str, raw: Path, *words: object, code: int = 0) -> dict[str, Sample]:
    out = raw.parent / f"out-{name}-{len(list(raw.parent.iterdir()))}"
    assert main(["build", name, "--raw", str(raw), "--out", str(out), "--workers", "0", *map(str, words)]) == code
    shards = ShardSet(Manifest.read(out))
    return {shards.key(index): shards.sample(index) for index in range(len(shards))}


def reasons(raw: Path) -> dict[str, str]:
    (path,) = sorted(raw.parent.glob("out-*/rejected.jsonl"), key=lambda one: one.stat().st_mtime_ns)[-1:]
    return {line["key"]: line["reason"] for line in map(json.loads, path.read_text().splitlines())}


def blank(**given: object) -> dict[str, object]:
    return {**dict.fromkeys(CHEXPERT, ""), **{name.replace("_", " "): value for name, value in given.items()}}


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 FINDINGS:

 There is no focal consolidation, pleural effusion or pneumothorax.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    raw = tmp_path / "mimic-cxr-jpg"
    names = [
        ("10000032", "50414267", "02aa804e-bde0afdd", "PA"),
        ("10000032", "50414267", "174413ec-4ec4c1f7", "LATERAL"),
    ]
    names.append(("19999987", "55368167", "58766883-376a15ce", "AP"))
    for number, (subject, study, image, _) in enumerate(names):
        trees.picture(raw / f"files/p{subject[:2]}/p{subject}/s{study}/{image}.jpg", number)
    columns = ("subject_id", "study_id", "dicom_id", "ViewPosition")
    rows = [dict(zip(columns, name, strict=True)) for name in names]
    metadata = [
        {**row, "PerformedProcedureStepDescription": "CHEST (PA AND LAT)", "StudyDate": "21800506"} for row in rows
    ]
    trees.table(raw / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
    splits = ("train", "train", "validate")
    keep = ("dicom_id", "study_id", "subject_id")
    split = [{**{name: row[name] for name in keep}, "split": one} for row, one in zip(rows, splits, strict=True)]
    trees.table(raw / "mimic-cxr-2.0.0-split.csv.gz", split)
    labels = [{"subject_id": "10000032", "study_id": "50414267", **blank(No_Finding="1.0", Pleural_Effusion="-1.0")}]
    labels.append({"subject_id": "19999987", "study_id": "55368167", **blank(Pneumonia="0.0")})
    trees.table(raw / "mimic-cxr-2.0.0-chexpert.csv.gz", labels)
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("files/p10/p10000032/s50414267.txt", REPORT)
        archive.writestr("files/p19/p19999987/s55368167.txt", REPORT)
    return raw


def test_mimic_cxr_jpg(mimic: Path) -> None:
    found = run("mimic_cxr", mimic)
    assert set(found) == {"02aa804e-bde0afdd", "174413ec-4ec4c1f7", "58766883-376a15ce"}
    one = found["02aa804e-bde0afdd"]
    assert (one.patient, one.study, one.view, one.split) == ("p10000032", "s50414267", "PA", "train")
    assert one.labels == {"No Finding": 1, "Pleural Effusion": -1}
    assert one.report is not None and one.report.impression == "No acute cardiopulmonary process."
    assert one.report.findings.startswith("There is no focal consolidation")
    assert {(mention.code, mention.assertion) for mention in one.concepts} >= {("pneumothorax", "absent")}
    assert found["58766883-376a15ce"].split == "val" and found["58766883-376a15ce"].labels == {"Pneumonia": 0}
    assert set(run("mimic_cxr", mimic, "--views", "PA", "AP")) == {"02aa804e-bde0afdd", "58766883-376a15ce"}
    assert reasons(mimic) == {"174413ec-4ec4c1f7": "other_view"}


def test_mimic_cxr_dicom_with_reports_in_a_tree(tmp_path: Path) -> None:
    raw = tmp_path / "mimic-cxr"
    place = "files/p10/p10000032/s50414267"
    trees.dicom(raw / f"{place}/02aa804e-bde0afdd.dcm", PatientName="Doe^Jane")
    trees.put(raw / f"{place}.txt", REPORT)
    row = {"subject_id": "10000032", "study_id": "50414267", "dicom_id": "02aa804e-bde0afdd"}
    trees.table(raw / "cxr-record-list.csv.gz", [{**row, "path": f"{place}/02aa804e-bde0afdd.dcm"}])
    (one,) = run("mimic_cxr", raw, "--split", "none").values()
    assert one.report is not None and one.report.impression == "No acute cardiopulmonary process."
    assert one.steps and one.steps[0].startswith("full range")


def test_chexpert(tmp_path: Path) -> None:
    raw = tmp_path / "CheXpert-v1.0-small"
    rows = []
    for number, (patient, view) in enumerate(
        (("00001", "view1_frontal"), ("00002", "view1_frontal"), ("00002", "view2_lateral"))
    ):
        path = f"train/patient{patient}/study1/{view}.jpg"
        trees.picture(raw / path, number)
        side = "Frontal" if "frontal" in view else "Lateral"
        row = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Female", "Age": "68", "Frontal/Lateral": side}
        row["AP/PA"] = "AP" if side == "Frontal" else ""
        rows.append({**row, **blank(Support_Devices="1.0", Edema="-1.0", Fracture="0.0")})
    trees.table(raw / "train.csv", rows)
    trees.picture(raw / "valid/patient64541/study1/view1_frontal.jpg", 9)
    valid = {**rows[0], "Path": "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"}
    trees.table(raw / "valid.csv", [{**valid, **dict.fromkeys(CHEXPERT, "0.0"), "Edema": "1.0"}])
    found = run("chexpert", raw)
    one = found["patient00001_study1_view1_frontal"]
    assert one.labels == {"Support Devices": 1, "Edema": -1, "Fracture": 0}
    assert (one.view, one.patient, dict(one.groups)) == ("AP", "patient00001", {"sex": "F", "age": "68"})
    assert found["patient00002_study1_view2_lateral"].view == "LATERAL"
    assert found["patient64541_study1_view1_frontal"].split == "test"
    # the folder may also be the one above
    assert len(run("chexpert", raw, "--frontal")) == 3
    for number, view in enumerate(("view1_frontal", "view2_lateral")):
        trees.picture(raw / f"test/patient64741/study1/{view}.jpg", 20 + number)
    paths = [f"CheXpert-v1.0/test/patient64741/study1/{view}.jpg" for view in ("view1_frontal", "view2_lateral")]
    labels = {**dict.fromkeys(CHEXPERT, "0"), "Pneumonia": "1"}
    for table in ("groundtruth.csv", "test_labels.csv"):
        trees.table(raw / table, [{"Path": path, **labels} for path in paths])
        found = run("chexpert", raw)
        one = found["patient64741_study1_view1_frontal"]
        assert (one.split, one.view, one.labels["Pneumonia"], sum(one.labels.values())) == ("test", "FRONTAL", 1, 1)
        assert found["patient64741_study1_view2_lateral"].view == "LATERAL"
        assert found["patient64541_study1_view1_frontal"].split == "val"
        assert len(run("chexpert", raw, "--frontal")) == 4
        assert run("chexpert", raw, "--valid-as", "test")["patient64541_study1_view1_frontal"].split == "test"
        (raw / table).unlink()


def test_chexpert_plus(tmp_path: Path) -> None:
    raw = tmp_path / "chexpertplus"
    path = "train/patient42142/study5/view1_frontal.jpg"
    trees.picture(raw / "PNG" / path.replace(".jpg", ".png"), 1)
    row = {
        "path_to_image": path,
        "frontal_lateral": "Frontal",
        "ap_pa": "PA",
        "deid_patient_id": "patient42142",
        "report": "NARRATIVE: ...",
        "section_history": "42 years of age, female, cough.",
        "section_findings": "Small right pleural effusion.",
        "section_impression": "1. Small right pleural effusion.",
        "age": "42.0",
        "sex": "Female",
        "split": "train",
        "race": "White",
        "insurance_type": "Private",
    }
    trees.table(raw / "df_chexpert_plus_240401.csv", [row])
    labels = {"path_to_image": path, **dict.fromkeys(CHEXPERT, None), "Pleural Effusion": 1.0, "Edema": -1.0}
    trees.put(raw / "chexbert_labels" / "report_fixed.json", json.dumps(labels) + "\n")
    (one,) = run("chexpert", raw).values()
    assert one.labels == {"Pleural Effusion": 1, "Edema": -1} and one.source == "chexpert_plus"
    assert one.report is not None and one.report.findings == "Small right pleural effusion."
    assert "White" not in str(one.to_json()) and "Private" not in str(one.to_json())
    assert {mention.side for mention in one.concepts if "effusion" in mention.code} == {"right"}


def test_openi_as_csv(tmp_path: Path) -> None:
    raw = tmp_path / "openi"
    trees.picture(raw / "images/images_normalized/1_IM-0001-4001.dcm.png", 1)
    trees.picture(raw / "images/images_normalized/1_IM-0001-3001.dcm.png", 2)
    report = {
        "uid": "1",
        "MeSH": "Cardiomegaly/borderline;Pulmonary Artery/enlarged",
        "Problems": "Cardiomegaly;Pulmonary Artery",
        "image": "Xray Chest PA and Lateral",
        "indication": "Positive TB test",
        "comparison": "None.",
        "findings": "Borderline cardiomegaly. Midline sternotomy XXXX.",
        "impression": "No acute findings.",
    }
    trees.table(raw / "indiana_reports.csv", [report])
    files = [("1_IM-0001-4001.dcm.png", "Frontal"), ("1_IM-0001-3001.dcm.png", "Lateral")]
    trees.table(
        raw / "indiana_projections.csv", [{"uid": "1", "filename": name, "projection": one} for name, one in files]
    )
    found = run("openi", raw, "--clean")
    one = found["1_IM-0001-4001"]
    assert set(found) == {"1_IM-0001-4001", "1_IM-0001-3001"} and one.view == "FRONTAL" and one.study == "CXR1"
    assert one.labels == {"Cardiomegaly": 1, "Pulmonary Artery": 1}
    assert one.report is not None and "XXXX" not in one.report.text and one.report.impression == "No acute findings."


def test_openi_as_xml(tmp_path: Path) -> None:
    raw = tmp_path / "openi"
    trees.picture(raw / "NLMCXR_png/CXR1_1_IM-0001-3001.png", 1)
    xml = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR1"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Positive TB test</AbstractText>
<AbstractText Label="FINDINGS">The cardiac silhouette is normal.</AbstractText>
<AbstractText Label="IMPRESSION">Normal chest x-XXXX.</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>normal</major></MeSH>
<parentImage id="CXR1_1_IM-0001-3001"><panel type="single"><url>/hadoop/storage/x.jpg</url></panel></parentImage></eCitation>"""
    trees.put(raw / "ecgen-radiology/1.xml", xml)
    trees.put(raw / "ecgen-radiology/2.xml", "<eCitation><uId")
    found = run("openi", raw, "--max-rejected", 1)
    one = found["CXR1_1_IM-0001-3001"]
    assert one.labels == {"No Finding": 1} and one.report is not None
    assert one.report.section("comparison") == "None." and one.report.findings == "The cardiac silhouette is normal."
    assert reasons(raw) == {"xml2": "bad_row"}


@pytest.mark.parametrize(
    "head",
    [
        "<!DOCTYPE a ["
        + "".join(f'<!ENTITY l{at} "{f"&l{at - 1};" * 10 if at else "ha" * 100}">' for at in range(12))
        + "]>|&l11;",
        '<!DOCTYPE a [<!ENTITY l SYSTEM "SECRET">]>|&l;',
        '<!DOCTYPE a [<!ENTITY % l SYSTEM "http://127.0.0.1:9/x"> %l;]>|x',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd" [<!ENTITY l "y">]>|&l;',
        "|" + "<a>" * 5000 + "</a>" * 5000,
    ],
)
def test_xml_of_others_is_one_reject_and_reads_nothing_else(head: str, tmp_path: Path) -> None:
    raw = tmp_path / "openi"
    trees.put(tmp_path / "secret", "SECRET TEXT")
    before, inside = head.replace("SECRET", (tmp_path / "secret").as_uri()).split("|")
    image = '<parentImage id="I"/>'
    text = f'{before}<eCitation><uId id="C"/><AbstractText Label="FINDINGS">{inside}</AbstractText>{image}</eCitation>'
    trees.picture(raw / "NLMCXR_png/I.png", 1)
    trees.put(raw / "ecgen-radiology/1.xml", text)
    good = (
        '<eCitation><uId id="G"/><AbstractText Label="FINDINGS">Clear.</AbstractText><parentImage id="I"/></eCitation>'
    )
    trees.put(raw / "ecgen-radiology/2.xml", good)
    found = run("openi", raw, "--max-rejected", 1)
    assert reasons(raw) == {"xml1": "bad_row"} and set(found) == {"I"}
    assert found["I"].report is not None and found["I"].report.text == "FINDINGS: Clear."


def test_nih_cxr14(tmp_path: Path) -> None:
    raw = tmp_path / "nih"
    trees.picture(raw / "images_001/images/00000001_000.png", 1)
    trees.picture(raw / "images_012/images/00000003_003.png", 2)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    )
    body = "00000001_000.png,Cardiomegaly|Effusion,0,1,058,M,PA,2682,2749,0.143,0.143,\n"
    body += "00000003_003.png,No Finding,3,3,075,F,AP,2992,2991,0.143,0.143,\n"
    trees.put(raw / "Data_Entry_2017.csv", header + body)
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Effusion,4.5,2,20,30,,,\n"
    trees.put(raw / "BBox_List_2017.csv", boxes)
    trees.put(raw / "train_val_list.txt", "00000001_000.png\n")
    trees.put(raw / "test_list.txt", "00000003_003.png\n")
    found = run("nih_cxr14", raw)
    one, other = found["00000001_000"], found["00000003_003"]
    assert {name for name, value in one.labels.items() if value} == {"Cardiomegaly", "Effusion"} and len(
        one.labels
    ) == 15
    assert one.boxes[0].xyxy == (4.5, 2.0, 24.5, 32.0) and one.boxes[0].label == "Effusion"
    assert one.groups == {"sex": "M", "age": "58"} and other.labels["No Finding"] == 1 and other.split == "test"


def test_rsna_pneumonia(tmp_path: Path) -> None:
    raw = tmp_path / "rsna"
    for key in ("0004cfab", "00436515"):
        trees.dicom(raw / f"stage_2_train_images/{key}.dcm")
    columns = ("patientId", "x", "y", "width", "height", "Target")
    lines = [("0004cfab", "", "", "", "", "0"), ("00436515", "4.0", "5.0", "20.0", "10.0", "1")]
    lines.append(("00436515", "30.0", "5.0", "8.0", "9.0", "1"))
    trees.table(raw / "stage_2_train_labels.csv", [dict(zip(columns, line, strict=True)) for line in lines])
    detail = [
        {"patientId": "0004cfab", "class": "No Lung Opacity / Not Normal"},
        {"patientId": "00436515", "class": "Lung Opacity"},
    ]
    trees.table(raw / "stage_2_detailed_class_info.csv", [*detail, detail[1]])
    found = run("rsna_pneumonia", raw)
    assert [box.xyxy for box in found["00436515"].boxes] == [(4.0, 5.0, 24.0, 15.0), (30.0, 5.0, 38.0, 14.0)]
    assert found["00436515"].labels["Pneumonia"] == 1 and found["0004cfab"].labels["Pneumonia"] == 0
    assert found["0004cfab"].labels["No Lung Opacity / Not Normal"] == 1 and not found["0004cfab"].boxes


def test_siim_run_lengths() -> None:
    # the vector of the evaluation reference: relative starts, down the columns
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert decode_rle("1 2 3 1", 4, 4).astype(int).tolist() == expected


@pytest.mark.parametrize("column", ["EncodedPixels", " EncodedPixels"])
def test_siim_acr(column: str, tmp_path: Path) -> None:
    import io

    from PIL import Image

    raw = tmp_path / "siim"
    keys = ["1.2.276.0.7230010.3.1.4.1", "1.2.276.0.7230010.3.1.4.2", "1.2.276.0.7230010.3.1.4.3"]
    stored = np.arange(1024 * 1024, dtype=np.uint16).reshape(1024, 1024)
    for number, key in enumerate(keys[:2]):
        trees.dicom(raw / f"dicom-images-train/1.2.{number}/1.3.{number}/{key}.dcm", stored)
    rows = [(keys[0], " -1"), (keys[1], " 1024 2 1022 2"), (keys[1], " 0 3"), (keys[2], " -1")]
    trees.table(raw / "train-rle.csv", [{"ImageId": key, column: code} for key, code in rows])
    found = run("siim_acr", raw, "--max-rejected", 1)
    sick = found[keys[1].replace(".", "_")]
    inside = np.asarray(Image.open(io.BytesIO(sick.masks["pneumothorax"]))) > 0
    expected = np.zeros((1024, 1024), bool)
    expected[0:2, 1] = expected[0:2, 2] = expected[0:3, 0] = True  # columns first: 1024 is the top of column 1
    assert np.array_equal(inside, expected) and sick.labels == {"Pneumothorax": 1}
    assert found[keys[0].replace(".", "_")].labels == {"Pneumothorax": 0}
    assert list(reasons(raw).values()) == ["image_missing"]


def test_vindr_cxr(tmp_path: Path) -> None:
    raw = tmp_path / "vindr"
    for split, key in (("train", "aa"), ("test", "bb")):
        trees.dicom(raw / split / f"{key}.dicom")
    votes = [
        {"image_id": "aa", "rad_id": f"R{n}", "Cardiomegaly": str(int(n < 2)), "No finding": str(int(n > 1))}
        for n in range(3)
    ]
    trees.table(raw / "annotations/image_labels_train.csv", votes)
    trees.table(raw / "annotations/image_labels_test.csv", [{"image_id": "bb", "Cardiomegaly": "0", "No finding": "1"}])
    columns = ("image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max")
    boxes = [("aa", "R0", "Cardiomegaly", "10", "10", "30", "30"), ("aa", "R1", "Cardiomegaly", "10", "12", "30", "32")]
    boxes.append(("aa", "R2", "No finding", "", "", "", ""))
    trees.table(raw / "annotations/annotations_train.csv", [dict(zip(columns, box, strict=True)) for box in boxes])
    test = {name: "" for name in columns if name != "rad_id"} | {"image_id": "bb", "class_name": "No finding"}
    trees.table(raw / "annotations/annotations_test.csv", [test])
    found = run("vindr_cxr", raw, "--split", "none")
    assert found["aa"].labels == {"Cardiomegaly": 1, "No finding": 1}
    assert [(box.label, box.xyxy) for box in found["aa"].boxes] == [("Cardiomegaly", (10.0, 11.0, 30.0, 31.0))]
    assert found["bb"].split == "test" and found["bb"].labels == {"Cardiomegaly": 0, "No finding": 1}
    strict = run("vindr_cxr", raw, "--split", "none", "--readers", 2)
    assert strict["aa"].labels == {"Cardiomegaly": 1, "No finding": 0}
    assert run("vindr_cxr", raw, "--split", "none", "--readers", 3)["aa"].boxes == ()


def test_merging_boxes_of_readers() -> None:
    assert overlap((10, 10, 30, 30), (20, 20, 40, 50)) == pytest.approx(0.1111111)
    boxes = [("a", (0.0, 0.0, 10.0, 10.0)), ("b", (0.0, 0.0, 10.0, 10.0)), ("a", (0.0, 0.0, 10.0, 8.0))]
    assert merge_boxes(boxes) == [("a", (0.0, 0.0, 10.0, 9.0), 2), ("b", (0.0, 0.0, 10.0, 10.0), 1)]


def test_ms_cxr(mimic: Path) -> None:
    raw = mimic.parent / "ms-cxr"
    place = "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"
    common = {"category_name": "Pneumonia", "path": place, "dicom_id": "02aa804e-bde0afdd", "split": "val"}
    rows = []
    for text, box in (
        ("right basal opacity", (960, 800, 480, 400)),
        ("right basal opacity", (0, 0, 96, 80)),
        ("haze", (0, 0, 960, 800)),
    ):
        x, y, w, h = box
        size = {"image_width": 1920, "image_height": 1600}
        rows.append({**common, "label_text": text, "x": x, "y": y, "w": w, "h": h, **size})
    trees.table(raw / "MS_CXR_Local_Alignment_v1.1.0.csv", rows)
    (one,) = run("ms_cxr", raw, "--mimic", mimic).values()
    # the stored image is 48 x 40: 1/40 of what the boxes were drawn on
    assert [(box.phrase, box.xyxy) for box in one.boxes] == [
        ("right basal opacity", (24.0, 20.0, 36.0, 30.0)),
        ("right basal opacity", (0.0, 0.0, 2.4, 2.0)),
        ("haze", (0.0, 0.0, 24.0, 20.0)),
    ]
    assert (one.patient, one.study, one.split, one.labels) == ("p10000032", "s50414267", "val", {"Pneumonia": 1})


@pytest.mark.parametrize("zipped", [False, True])
def test_padchest(zipped: bool, tmp_path: Path) -> None:
    import io

    from PIL import Image

    raw = tmp_path / "padchest"
    deep = io.BytesIO()
    Image.fromarray(trees.pixels(1).astype(np.uint16) * 16).save(deep, "PNG")
    name = "20536686640136348236148679891455886468_k6ga29.png"
    if zipped:
        raw.mkdir()
        with zipfile.ZipFile(raw / "0.zip", "w") as archive:
            archive.writestr(name, deep.getvalue())
    else:
        trees.put(raw / "0" / name, deep.getvalue())
    row = {
        "": "0",
        "ImageID": name,
        "ImageDir": "0",
        "StudyDate_DICOM": "20140915",
        "StudyID": "20536686640136348236148679891455886468",
        "PatientID": "839860488694292331637988235681460987",
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": "PA",
        "MethodLabel": "Physician",
        "Report": "sin hallazg patolog edad pacient .",
        "Labels": "['Pulmonary Fibrosis ', 'kyphosis', 'kyphosis']",
        "Localizations": "['loc basal']",
    }
    row["Report"] = "aument densid lsd sugestiv neumoni . pinz sen costofren derech . sin derram ."
    other = {**row, "ImageID": "gone.png", "MethodLabel": "RNN_model", "Labels": "['malignancy', nan]"}
    trees.table(raw / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", [row, other])
    (one,) = run("padchest", raw, "--physician").values()
    assert one.labels == {"pulmonary fibrosis": 1, "kyphosis": 1, "malignancy": 0}
    assert one.groups == {"sex": "F", "age": "84", "labelled_by": "physician"} and one.view == "PA"
    assert any("more than 8 bits" in step for step in one.steps) and "2014" not in str(one.to_json())
    read = [("pneumonia", "uncertain"), ("blunted_costophrenic_angle", "present"), ("effusion", "absent")]
    assert [(mention.code, mention.assertion) for mention in one.concepts] == read  # as Spanish, whatever it looks like
    assert list(reasons(raw).values()) == ["not_by_physician"]
