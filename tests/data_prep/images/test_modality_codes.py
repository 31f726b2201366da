"""One vocabulary for how an image was made, whatever the source calls it; nothing is copied as it was typed."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests.data_prep.sources import trees
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp_prep.cli import main
from vlp_prep.images.modality_codes import MODALITIES, age_of, body_part_of, modality_of, sex_of, side_of, view_of


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        *(("X-ray", "CR"), ("CXR", "CR"), ("chest_xray", "CR"), ("Radiograph", "CR"), ("dx", "DX"), ("CR", "CR")),
        *(("MRI", "MR"), ("Ultrasound", "US"), ("Mammography", "MG"), ("histopathology", "SM"), ("WSI", "SM")),
        *(("fundus", "OP"), ("Dermoscopy", "XC"), ("endoscopy", "ES"), ("PET/CT", "PT"), ("CT scan", "CT")),
        *(("Anna Muster", "OT"), ("", None), (None, None)),
    ],
)
def test_modalities_are_dicom_codes(typed: str | None, code: str | None) -> None:
    assert modality_of(typed) == code and (code is None or modality_of(code) == code)


def test_other_words_are_mapped_or_unknown() -> None:
    assert [view_of(text) for text in ("PA", "ap_supine", "L", "Anna", "", None)] == [
        *("PA", "AP SUPINE", "LATERAL", "unknown", None, None)
    ]
    assert [sex_of(text) for text in ("Female", "m", "O", "Muster", "")] == ["F", "M", "O", "unknown", None]
    assert [side_of(text) for text in ("L", "right", "B", "U", "Anna")] == [
        "left",
        "right",
        "bilateral",
        None,
        "unknown",
    ]
    bands = ["65+", "<65", "18-40", "40 - 64", ">= 65", "under 40", "90+"]
    assert [age_of(band) for band in bands] == bands
    assert [age_of(text) for text in ("1950-01-01", "18-104", "Anna 65+", "65+5")] == ["unknown"] * 4
    assert [age_of(text) for text in ("034Y", "18M", "42.0", "93", "150", "born 1930", "")] == [
        *("34", "1", "42", "90+", "unknown", "unknown", None)
    ]
    assert [body_part_of(text) for text in ("Chest", "ANNA MUSTER", "")] == ["CHEST", "unknown", None]


def test_the_vocabulary_knows_all_of_dicoms_imaging_modalities_that_cases_name() -> None:
    assert {
        "CR",
        "DX",
        "CT",
        "MR",
        "US",
        "MG",
        "SM",
        "OP",
        "XC",
        "PT",
        "NM",
        "XA",
        "RF",
        "ES",
        "GM",
        "OCT",
        "OT",
    } <= MODALITIES


def test_every_source_writes_codes_or_what_the_build_maps_to_codes() -> None:
    import vlp_prep.sources

    (folder,) = vlp_prep.sources.__path__
    for path in Path(folder).glob("*.py"):
        for word in re.findall(r'modality="(\w+)"', path.read_text()):
            assert word in MODALITIES, path.name


def test_a_table_filled_by_hand_is_mapped_and_what_is_not_known_is_counted(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    rows = [
        {"modality": "x-ray", "view": "lat", "sex": "female", "age": "061Y"},
        {"modality": "Anna Muster", "view": "Anna Muster", "sex": "Anna Muster", "age": "Anna Muster"},
        {"modality": "", "view": "", "sex": "", "age": ""},
    ]
    for number, row in enumerate(rows):
        trees.picture(raw / f"{number}.png", number)
        row |= {"image": f"{number}.png", "report": "Clear lungs.", "key": f"k{number}"}
    with open(raw / "pairs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main(["build", "pairs", "--raw", str(raw), "--out", str(out), "--split", "none", "--workers", "0"]) == 0
    shards = ShardSet(Manifest.read(out))
    found = {one.key: (one.modality, one.view, dict(one.groups)) for one in map(shards.record, range(3))}
    assert found == {
        "k0": ("CR", "LATERAL", {"sex": "F", "age": "61"}),
        "k1": ("OT", "unknown", {"sex": "unknown", "age": "unknown"}),
        "k2": (None, None, {}),
    }
    card = (out / "README.md").read_text()
    assert card.count("| unknown | 1 |") == 3 and "| OT | 1 |" in card
    assert b"Muster" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
