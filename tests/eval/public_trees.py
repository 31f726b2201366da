"""Small raw folders in the layout of each public set, with the labels in turn, and the shards that `vlp-prep` makes of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.data_prep.sources import trees
from vlp_eval.suite import Suite
from vlp_prep.cli import main
from vlp_prep.readers.chexpert import CHEXPERT
from vlp_prep.sources import chestx_det10, chexpert5x200, chexpert8x200

FIVE = chexpert5x200.LABELS
PADCHEST = (
    *("cardiomegaly", "pleural effusion", "pneumonia", "atelectasis", "nodule", "pneumothorax"),
    *("consolidation", "fibrosis", "emphysema", "normal"),
)


def turns(names: Sequence[str], each: int = 2) -> Iterator[tuple[int, str]]:
    """Yield numbers with the names in turn, each name `each` times."""
    yield from enumerate(list(names) * each)


def path_of(number: int, part: str = "train") -> str:
    return f"CheXpert-v1.0-small/{part}/patient{number:05d}/study1/view1_frontal.jpg"


def stanford(raw: Path, names: Sequence[str], part: str = "train", first: int = 0) -> list[dict[str, Any]]:
    """Write CheXpert images under `raw`, each with one of the labels, and return their rows."""
    rows = []
    for at, name in turns(names):
        number = first + at
        trees.picture(raw / path_of(number, part), number)
        about = {"Sex": ("Male", "Female")[number % 2], "Age": 40 + number, "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
        rows.append({"Path": path_of(number, part), **about, **dict.fromkeys(CHEXPERT, "0.0"), name: "1.0"})
    return rows


def chexpert(raw: Path) -> list[str]:
    for part, first in (("train", 1000), ("valid", 0)):
        trees.table(raw / "CheXpert-v1.0-small" / f"{part}.csv", stanford(raw, CHEXPERT, part, first))
    return ["--raw", str(raw / "CheXpert-v1.0-small")]


def five(raw: Path) -> list[str]:
    rows = [{**row, "Report Impression": f"Finding {at}."} for at, row in enumerate(stanford(raw / "data", FIVE))]
    trees.table(raw / "chexpert_5x200.csv", rows)
    return ["--chexpert", str(raw / "data")]


def eight(raw: Path) -> list[str]:
    trees.table(raw / "image-retrieval" / "candidate.csv", stanford(raw / "data", chexpert8x200.CLASSES))
    return ["--chexpert", str(raw / "data")]


def mimic_rows() -> Iterator[tuple[dict[str, str], str, str]]:
    for number, name in turns(FIVE):
        ids = {"subject_id": f"{10000000 + number}", "study_id": f"{50000000 + number}", "dicom_id": f"aa-{number}"}
        yield ids, name, f"files/p10/p{ids['subject_id']}/s{ids['study_id']}"


def mimic(raw: Path) -> list[str]:
    found = list(mimic_rows())
    for number, (ids, _, place) in enumerate(found):
        trees.picture(raw / place / f"{ids['dicom_id']}.jpg", number)
    trees.table(
        raw / "mimic-cxr-2.0.0-metadata.csv.gz",
        [{**ids, "ViewPosition": "PA", "StudyDate": "21800506"} for ids, _, _ in found],
    )
    trees.table(raw / "mimic-cxr-2.0.0-split.csv.gz", [{**ids, "split": "test"} for ids, _, _ in found])
    rows = [{**ids, **dict.fromkeys(CHEXPERT, ""), name: "1.0"} for ids, name, _ in found]
    trees.table(
        raw / "mimic-cxr-2.0.0-chexpert.csv.gz", [{k: v for k, v in row.items() if k != "dicom_id"} for row in rows]
    )
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w") as archive:
        for number, (_, name, place) in enumerate(found):
            archive.writestr(f"{place}.txt", f"FINDINGS:\n There is {name.lower()}, case {number}.\n")
    return []


def ms_cxr(raw: Path) -> list[str]:
    mimic(raw / "mimic")
    rows = []
    for number, (ids, name, place) in enumerate(mimic_rows()):
        common = {"category_name": name, "path": f"{place}/{ids['dicom_id']}.jpg", "dicom_id": ids["dicom_id"]}
        box = {"x": 4 + number, "y": 5, "w": 16, "h": 12, "image_width": 48, "image_height": 40}
        rows.append({**common, "label_text": f"{name.lower()} on the left", "split": "test", **box})
    trees.table(raw / "MS_CXR_Local_Alignment_v1.1.0.csv", rows)
    return ["--mimic", str(raw / "mimic")]


def nih(raw: Path) -> list[str]:
    from vlp_eval.suite import find_task

    names = [*find_task("nih_cxr14", None).settings.classes, "No Finding"]
    table = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    ]
    boxes, files = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"], []
    for number, name in turns(names):
        file = f"{number:08d}_000.png"
        trees.picture(raw / "images_001" / "images" / file, number)
        table.append(f"{file},{name},0,{number},058,{'MF'[number % 2]},{('PA', 'AP')[number % 2]},48,40,0.143,0.143,")
        if name in ("Atelectasis", "Effusion", "Mass", "Nodule"):
            boxes.append(f"{file},{name},{4 + number % 8},6,20,18,,,")
        files.append(file)
    trees.put(raw / "Data_Entry_2017_v2020.csv", "\n".join(table) + "\n")
    trees.put(raw / "BBox_List_2017.csv", "\n".join(boxes) + "\n")
    trees.put(raw / "test_list.txt", "\n".join(files) + "\n")
    trees.put(raw / "train_val_list.txt", "")
    return []


def rsna(raw: Path) -> list[str]:
    rows, detail = [], []
    for number, name in turns(("Normal", "Lung Opacity", "No Lung Opacity / Not Normal"), 12):
        key, sick = f"{number:08x}", name == "Lung Opacity"
        trees.dicom(raw / "stage_2_train_images" / f"{key}.dcm", trees.pixels(number).astype("uint16") * 16)
        place = (
            {"x": 4 + number, "y": 5, "width": 20, "height": 12}
            if sick
            else dict.fromkeys(("x", "y", "width", "height"), "")
        )
        rows.append({"patientId": key, **place, "Target": int(sick)})
        detail.append({"patientId": key, "class": name})
    trees.table(raw / "stage_2_train_labels.csv", rows)
    trees.table(raw / "stage_2_detailed_class_info.csv", detail)
    return ["--split", "none"]


def siim(raw: Path) -> list[str]:
    import numpy as np

    rows = []
    for number, code in turns(("-1", "1024 200 824 200"), 40):
        key = f"1.2.276.0.7230010.3.1.4.{number}"
        coarse = trees.pixels(number, 64, 64).astype(np.uint16) * 16
        trees.dicom(
            raw / "dicom-images-train" / str(number) / "a" / f"{key}.dcm", np.kron(coarse, np.ones((16, 16), np.uint16))
        )
        rows.append({"ImageId": key, " EncodedPixels": f" {code}"})
    trees.table(raw / "train-rle.csv", rows)
    return ["--split", "none"]


def padchest(raw: Path) -> list[str]:
    rows = []
    for number, name in turns(PADCHEST):
        trees.picture(raw / "0" / f"{number}.png", number)
        about = {
            "StudyDate_DICOM": "20140915",
            "StudyID": f"s{number}",
            "PatientID": f"p{number}",
            "PatientBirth": "1930.0",
        }
        more = {"PatientSex_DICOM": "F", "Projection": "PA", "MethodLabel": "Physician", "Report": "sin hallazg ."}
        labels = {"Labels": f"['{name}']", "Localizations": "[]"}
        rows.append({"": number, "ImageID": f"{number}.png", "ImageDir": "0", **about, **more, **labels})
    trees.table(raw / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", rows)
    return ["--split", "none", "--physician"]


def openi(raw: Path) -> list[str]:
    from vlp_eval.suite import find_task

    reports, files = [], []
    for number, name in turns([*find_task("openi", None).settings.classes, "normal"]):
        trees.picture(raw / "images" / "images_normalized" / f"{number}_IM-1.dcm.png", number)
        text = {"findings": f"There is {name.lower()}, case {number}.", "impression": name}
        shared = {"image": "Xray Chest PA and Lateral", "indication": "", "comparison": "None."}
        reports.append({"uid": number, "MeSH": name, "Problems": name, **shared, **text})
        files.append({"uid": number, "filename": f"{number}_IM-1.dcm.png", "projection": "Frontal"})
    trees.table(raw / "indiana_reports.csv", reports)
    trees.table(raw / "indiana_projections.csv", files)
    return ["--split", "none"]


def vindr(raw: Path) -> list[str]:
    from vlp_eval.suite import find_task

    names = [*find_task("vindr_cxr", None).settings.classes, "No finding"]
    labels, boxes = [], []
    for number, name in turns(names):
        trees.dicom(raw / "test" / f"v{number}.dicom", trees.pixels(number).astype("uint16") * 16)
        labels.append({"image_id": f"v{number}", **{one: int(one == name) for one in names}})
        place = dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), "")
        boxes.append({"image_id": f"v{number}", "class_name": "No finding", **place})
    trees.table(raw / "annotations" / "image_labels_test.csv", labels)
    trees.table(raw / "annotations" / "annotations_test.csv", boxes)
    return []


def det10(raw: Path) -> list[str]:
    import json

    rows = []
    for number, name in turns([*chestx_det10.LABELS, ""]):
        trees.picture(raw / "test_data" / f"{number:08d}_000.png", number)
        boxes = [[4 + number % 9, 5, 30, 28]] if name else []
        rows.append({"file_name": f"{number:08d}_000.png", "syms": [name] if name else [], "boxes": boxes})
    trees.put(raw / "test.json", json.dumps(rows))
    return []


def vqa_rad(raw: Path) -> list[str]:
    import json

    rows = []
    for number, name in turns(("HEAD", "CHEST", "ABD"), 3):
        trees.picture(raw / "VQA_RAD Image Folder" / f"synpic{number}.jpg", number)
        asked = {"qid": number, "question": f"Is case {number} normal?", "answer": "Yes", "phrase_type": "freeform"}
        rows.append(
            {"image_name": f"synpic{number}.jpg", "image_organ": name, "image_case_url": f"u?id={number}", **asked}
        )
    trees.put(raw / "VQA_RAD Dataset Public.json", json.dumps(rows))
    return ["--split", "none"]


def masked(name: str) -> Callable[[Path], list[str]]:
    """Return a writer of pictures with a mask each, listed in a table of their paths."""

    def tree(raw: Path) -> list[str]:
        import json

        import numpy as np
        from PIL import Image

        rows = []
        for number in range(4):
            trees.picture(raw / "test_images" / f"{number}.png", number)
            mask = np.zeros((40, 48), np.uint8)
            mask[10 : 20 + number, 12:30] = 255
            (raw / "test_masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(raw / "test_masks" / f"{number}.png")
            paths = {"image": f"test_images/{number}.png", "masks": json.dumps({name: f"test_masks/{number}.png"})}
            rows.append({**paths, "patient": number, "split": "test"})
        trees.table(raw / "pairs.csv", rows)
        return ["--no-text", "keep"]

    return tree


TREES: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "chexpert": ("chexpert", chexpert),
    "chexpert5x200": ("chexpert5x200", five),
    "chexpert8x200": ("chexpert8x200", eight),
    "mimic_cxr": ("mimic_cxr", mimic),
    "ms_cxr": ("ms_cxr", ms_cxr),
    "nih_cxr14": ("nih_cxr14", nih),
    "rsna_pneumonia": ("rsna_pneumonia", rsna),
    "siim_acr": ("siim_acr", siim),
    "padchest": ("padchest", padchest),
    "openi": ("openi", openi),
    "vindr_cxr": ("vindr_cxr", vindr),
    "chestx_det10": ("chestx_det10", det10),
    "vqa_rad": ("vqa_rad", vqa_rad),
    "breast_ultrasound_masks": ("pairs", masked("tumor")),
    "brain_mri_masks": ("pairs", masked("tumor")),
    "lung_xray_masks": ("pairs", masked("lung")),
    "lung_ct_masks": ("pairs", masked("lung")),
}


def class_folders(raw: Path, classes: Sequence[str], split: str | None) -> list[str]:
    """Write a folder of pictures for each class, and the sentences that `label_captions` asks for."""
    for number, name in turns(classes):
        trees.picture(raw.joinpath(*[split] if split else [], name, f"{number}.png"), number, mode="RGB")
    sentences = "".join(f"  {name}: []\n" for name in classes)
    trees.put(raw.parent / f"{raw.name}.yaml", f"templates: ['{{}}']\nlabels:\n{sentences}")
    return ["--captions", str(raw.parent / f"{raw.name}.yaml"), *([] if split else ["--split", "none"])]


def build(suite: Suite, raw: Path, out: Path) -> None:
    """Build the shards that a suite's tasks look for, each in the folder of its name under `out`."""
    for task in suite.tasks:
        name = task.spec.data.folder
        if (out / name).exists():
            continue
        if name in TREES:
            source, tree = TREES[name]
            words = tree(raw / name)
        else:
            called = [task.settings.names_of(one)[-1] for one in task.settings.classes]  # as the publisher does
            source, words = "label_captions", class_folders(raw / name, called, task.spec.data.split)
        if task.spec.family == "probe":  # which needs something to fit on
            words = [one for one in words if one not in ("--split", "none")]
        given = [] if "--raw" in words else ["--raw", str(raw / name)]
        assert main(["build", source, *given, "--out", str(out / name), "--workers", "0", *words]) == 0, name
