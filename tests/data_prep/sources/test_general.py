"""Sets that are not chest radiographs, a hospital's own files, and what turns labels into captions."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.data_prep.sources import trees
from tests.data_prep.sources.test_chest import reasons, run
from vlp_prep.cli import main


def test_vqa_rad(tmp_path: Path) -> None:
    raw = tmp_path / "vqa"
    trees.picture(raw / "VQA_RAD Image Folder/synpic54610.jpg", 1)
    common = {
        "image_name": "synpic54610.jpg",
        "image_organ": "HEAD",
        "image_case_url": "https://medpix.nlm.nih.gov/case?id=48e1",
    }
    asked = [
        {
            **common,
            "qid": 1,
            "question": "Are regions of the brain infarcted?",
            "answer": "Yes",
            "phrase_type": "freeform",
        },
        {**common, "qid": 2, "question": "How many lesions are there", "answer": 3, "phrase_type": "test_para"},
    ]
    trees.put(raw / "VQA_RAD Dataset Public.json", json.dumps(asked))
    (one,) = run("vqa_rad", raw).values()
    assert one.key == "synpic54610" and one.patient == "48e1"
    assert one.report is not None
    assert one.report.text == "Are regions of the brain infarcted? Yes. How many lesions are there? 3."
    assert one.labels == {"abdomen": 0, "chest": 0, "head": 1}
    (one,) = run("vqa_rad", raw, "--questions", "test").values()
    assert one.report is not None and one.report.text == "How many lesions are there? 3."


def test_roco_with_captions_txt(tmp_path: Path) -> None:
    raw = tmp_path / "roco-dataset"
    for split in ("train", "validation"):
        trees.picture(raw / f"data/{split}/radiology/images/ROCO_0000{len(split)}.jpg")
        trees.put(
            raw / f"data/{split}/radiology/captions.txt", f"ROCO_0000{len(split)}\t Axial CT of the {split} set. \n"
        )
    found = run("roco", raw)
    assert found["ROCO_00005"].captions == ("Axial CT of the train set.",) and found["ROCO_00005"].split == "train"
    assert found["ROCO_000010"].split == "val"


def test_roco_as_csv_and_rocov2(tmp_path: Path) -> None:
    raw = tmp_path / "roco"
    trees.picture(raw / "test/radiology/images/PMC3170978_1.jpg")
    row = {"id": "ROCO_00002", "name": "PMC3170978_1.jpg", "caption": 'Chest radiograph, "lateral"\nview.'}
    trees.table(raw / "test/radiology/testdata.csv", [row])
    (one,) = run("roco", raw).values()
    assert one.captions == ('Chest radiograph, "lateral"\nview.',) and one.split == "test"

    raw = tmp_path / "rocov2"
    trees.picture(raw / "valid/ROCOv2_2023_valid_000001.jpg")
    key = "ROCOv2_2023_valid_000001"
    trees.table(raw / "valid_captions.csv", [{"ID": key, "Caption": "MRI of the knee."}])
    trees.table(raw / "valid_concepts.csv", [{"ID": key, "CUIs": "C0024485;C0022742"}])
    (one,) = run("roco", raw).values()
    assert one.split == "val" and one.labels == {"C0022742": 1, "C0024485": 1} and one.captions == ("MRI of the knee.",)


@pytest.mark.parametrize("zipped", [False, True])
def test_pmc_oa(zipped: bool, tmp_path: Path) -> None:
    raw = tmp_path / "pmc"
    folder = "caption_T060_filtered_top4_sep_v0_subfigures"
    names = ["PMC212319_Fig3_4.jpg", "PMC212319_Fig3_5.jpg"]
    raw.mkdir()
    if zipped:
        with zipfile.ZipFile(raw / "images.zip", "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(f"{folder}/{name}", trees.encoded("JPEG", number))
    else:
        for number, name in enumerate(names):
            trees.picture(raw / folder / name, number)
    lines = [(names[0], "A. Real time ultrasound."), (names[0], "Second caption."), (names[1], "B. Doppler.")]
    lines.append(("../PMC1_up.jpg", "Out."))
    text = "".join(
        json.dumps({"image": name, "caption": caption, "pmcid": "PMC212319"}) + "\n" for name, caption in lines
    )
    trees.put(raw / "pmc_oa.jsonl", text)
    found = run("pmc_oa", raw, "--max-rejected", 1)
    assert found["PMC212319_Fig3_4"].captions == ("A. Real time ultrasound.", "Second caption.")
    assert {one.study for one in found.values()} == {"PMC212319"} and len({one.split for one in found.values()}) == 1
    assert list(reasons(raw).values()) == ["outside_raw"]


def test_quilt1m(tmp_path: Path) -> None:
    raw = tmp_path / "quilt"
    name = "0Ijx9oXKbTo_image_c58a2.jpg"
    trees.picture(raw / "quilt_1m" / name, mode="RGB")
    rows = [
        {
            "": number,
            "caption": caption,
            "image_path": name,
            "subset": "quilt",
            "split": "train",
            "pathology": "['Skin']",
        }
        for number, caption in enumerate(("Basal cells.", "Palisading.", "Basal cells."))
    ]
    trees.table(raw / "quilt_1M_lookup.csv", rows)
    (one,) = run("quilt1m", raw).values()
    assert one.captions == ("Basal cells.", "Palisading.") and one.study == "0Ijx9oXKbTo" and one.split == "train"


def test_linked_concepts(tmp_path: Path) -> None:
    raw = tmp_path / "linked"
    trees.picture(raw / "images/a.jpg")
    linked = {
        "umls_cui": "C0032285",
        "umls_similarity": 0.97,
        "start_char": 3,
        "end_char": 12,
        "start_token": 2,
        "end_token": 3,
    }
    line = {"image": "images/a.jpg", "caption": "No pneumonia is seen.", "umls_meta_info": [linked]}
    trees.put(raw / "linked.jsonl", json.dumps(line) + "\n")
    (one,) = run("linked_concepts", raw, "--table", "linked.jsonl").values()
    (mention,) = one.concepts
    assert (mention.text, mention.code, mention.assertion) == ("pneumonia", "C0032285", "absent")
    assert one.report is not None and one.report.text[mention.start : mention.end] == "pneumonia"


def test_label_captions_from_folders(tmp_path: Path) -> None:
    raw = tmp_path / "fundus"
    trees.picture(raw / "train/normal/a.png", 1, mode="RGB")
    trees.picture(raw / "test/mild/b.png", 2, mode="RGB")
    sentences = "templates: ['a fundus photograph of {}', '{}']\nlabels:\n  normal: [a healthy retina]\n  mild: []\n"
    captions = trees.put(tmp_path / "captions.yaml", sentences)
    found = run("label_captions", raw, "--captions", captions, "--modality", "fundus")
    one = found["train_normal_a"]
    assert one.captions == ("a fundus photograph of a healthy retina", "a healthy retina")
    assert one.labels == {"mild": 0, "normal": 1} and one.split == "train" and one.modality == "OP"
    assert (
        found["test_mild_b"].captions == ("a fundus photograph of mild", "mild")
        and found["test_mild_b"].split == "test"
    )


def test_label_captions_from_flairs_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "flair"
    trees.picture(raw / "MESSIDOR/1.jpg", 1, mode="RGB")
    trees.table(raw / "a.csv", [{"image": "MESSIDOR/1.jpg", "atributes": "[]", "categories": "['mild DR', 'edema']"}])
    captions = trees.put(tmp_path / "c.yaml", "labels: {mild DR: [few microaneurysms], edema: [macular edema]}")
    words = ("--table", "a.csv", "--label", "categories", "--captions", captions)
    (one,) = run("label_captions", raw, *words).values()
    assert one.captions == ("few microaneurysms", "macular edema") and one.labels == {"edema": 1, "mild DR": 1}
    captions.write_text("labels: {mild: [], edema: []}")
    assert main(["build", "label_captions", "--raw", str(raw), "--out", str(tmp_path / "x"), *map(str, words)]) == 2
    assert "no sentences for label 'mild DR' of MESSIDOR/1.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_hugging_face_data_sets(form: str, tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    pictures = [Image.fromarray(trees.pixels(number)) for number in range(4)]
    columns = {
        "image": pictures,
        "text": ["Effusion.", "No effusion."] * 2,
        "label": [0, 1, 0, 1],
        "who": ["a", "b", "a", "c"],
    }
    features = datasets.Features(
        image=datasets.Image(),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["sick", "well"]),
        who=datasets.Value("string"),
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    place = tmp_path / "saved"
    if form == "saved":
        datasets.DatasetDict({"train": table}).save_to_disk(str(place))
    else:
        place.mkdir()
        table.to_parquet(str(place / "train-00000-of-00001.parquet"))
    mapping = ("--map", "report=text", "labels=label", "patient=who")
    found = _hf(tmp_path, place, *mapping)
    one = found["train_00000001"]
    assert one.report is not None and one.report.text == "No effusion."
    assert one.labels == {"sick": 0, "well": 1} and one.patient == "b" and one.split == "train"
    assert isinstance(one.image, bytes) and one.image.startswith(b"\x89PNG")
    import io

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(one.image))), trees.pixels(1))


def _hf(tmp_path: Path, place: Path, *words: str) -> dict:
    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet

    out = tmp_path / "out"
    assert main(["build", "hf", "--dataset", str(place), "--out", str(out), *words]) == 0
    shards = ShardSet(Manifest.read(out))
    return {shards.key(index): shards.sample(index) for index in range(len(shards))}


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLP_PREP_KEY", "a secret of this hospital")
    raw = tmp_path / "export"
    for number in range(3):
        names = {
            "PatientName": "Doe^Jane",
            "PatientID": f"MRN000{number // 2}",
            "PatientAge": "061Y",
            "PatientSex": "F",
        }
        study = {"StudyInstanceUID": f"1.2.3.{number}", "AccessionNumber": f"ACC{number}", "ViewPosition": "PA"}
        trees.dicom(raw / f"MRN000{number // 2}/scan{number}", **names, **study, StudyDate="20200102")
    rows = [
        {"Accession": "ACC0", "Text": "FINDINGS: Clear.\nIMPRESSION: Normal."},
        {"Accession": "ACC1", "Text": "Effusion."},
    ]
    trees.table(raw / "reports.csv", [*rows, {"Accession": "ACC2", "Text": ""}])
    return raw


def test_dicom_folder_with_a_table(hospital: Path) -> None:
    words = ("--table", "reports.csv", "--map", "accession=Accession", "report=Text", "--no-text", "drop")
    found = run("dicom_folder", hospital, *words)
    assert len(found) == 2 and sorted(str(one.report.text)[:8] for one in found.values() if one.report) == [
        "Effusion",
        "FINDINGS",
    ]
    assert all(
        (one.modality, one.view, dict(one.groups)) == ("CR", "PA", {"sex": "F", "age": "61"}) for one in found.values()
    )
    assert len({one.patient for one in found.values()}) == 1 and len({one.study for one in found.values()}) == 2
    (out,) = hospital.parent.glob("out-*")
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for secret in (b"Doe", b"MRN000", b"1.2.3.", b"ACC", b"20200102", b"a secret"):
        assert secret not in written, secret


def test_dicom_folder_with_text_files_frames_and_bad_files(hospital: Path) -> None:
    trees.put(hospital / "MRN0000/scan0.txt", "Opacité.".encode("latin-1"))
    trees.put(hospital / "MRN0000/scan1.txt", "Opacity.")
    trees.put(hospital / "MRN0000/broken.dcm", b"\0" * 128 + b"DICM" + b"junk" * 9)
    trees.put(hospital / "MRN0000/thumbs.db", b"not DICOM")
    frames = np.arange(3 * 8 * 8, dtype=np.uint16).reshape(3, 8, 8)
    trees.dicom(hospital / "cine/loop.dcm", frames, PatientID="MRN9", StudyInstanceUID="1.2.9")
    trees.put(hospital / "cine/loop.txt", "A loop.")
    words = ("--reports", "sidecar", "--max-rejected", 1, "--frames", "slices", "--format", "png", "--split", "none")
    found = run("dicom_folder", hospital, *words)
    assert sorted(one.report.text for one in found.values() if one.report) == ["A loop."] * 3 + ["Opacity."]
    assert sorted(reasons(hospital).values()) == ["image_unreadable", "image_unreadable", "no_text", "text_encoding"]
