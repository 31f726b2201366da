"""`vlp-prep build` on data as it really is: the shared images and notes, and the many kinds of DICOM that pydicom ships."""

import json
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from tests import SHARED_DATA
from tests.data_prep.pipeline.built import build, rejected, samples
from vlp.data.shards.verify import verify

COVID = SHARED_DATA / "covid_cxr"
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.skipif(not COVID.is_dir(), reason="../shared/data/covid_cxr is not here")
def test_the_real_covid_images(tmp_path: Path) -> None:
    build("covid_chestxray", "--raw", COVID, "--out", tmp_path / "out", "--workers", 0, "--no-text", "keep")
    found = samples(tmp_path / "out")
    assert len(found) == 235 and not rejected(tmp_path / "out") and verify(tmp_path / "out") == []
    boxed = found["jkms-35-e79-g001-l-a"]
    assert {box.phrase: box.xyxy for box in boxed.boxes} == {
        "right lung": (22.0, 39.0, 169.0, 339.0),
        "left lung": (208.0, 28.0, 379.0, 313.0),
    }
    assert boxed.labels["COVID-19"] == 1 and boxed.labels["No Finding"] == 0
    assert boxed.report is not None and "consolidation" in boxed.report.text
    assert any(one.code == "consolidation" and one.assertion == "present" for one in boxed.concepts)
    assert sum(bool(one.masks) for one in found.values()) == 30
    sides: dict[str, set[str]] = {}
    for one in found.values():
        sides.setdefault(str(one.patient), set()).add(str(one.split))
    assert all(len(side) == 1 for side in sides.values()) and set.union(*sides.values()) == {"train", "val", "test"}
    # 285 and 339 are one person, says the list beside the table
    assert {one.patient for one in found.values() if one.patient in ("285", "339")} == {"285"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "read 235 = written 235 + rejected 0" in card


@pytest.mark.skipif(not COVID.is_dir(), reason="../shared/data/covid_cxr is not here")
def test_the_real_covid_pairs_with_boxes_and_masks(tmp_path: Path) -> None:
    mapping = "key=id image=image report=report labels=finding patient=patient_id boxes=lung_boxes masks=lung_mask"
    out = tmp_path / "out"
    words = (
        "--table",
        "pairs.jsonl",
        "--map",
        *mapping.split(),
        "licence=license",
        "--no-text",
        "keep",
        "--workers",
        2,
    )
    build("pairs", "--raw", COVID, "--out", out, *words)
    found = samples(out)
    lines = {one["id"]: one for one in map(json.loads, (COVID / "pairs.jsonl").read_text().splitlines())}
    assert set(found) == set(lines) and not rejected(out) and verify(out) == []
    for key, line in lines.items():
        boxes = {box.phrase: box.xyxy for box in found[key].boxes}
        assert boxes == {name: tuple(place) for name, place in (line["lung_boxes"] or {}).items()}
        assert bool(found[key].masks) == bool(line["lung_mask"]) and set(found[key].labels) == set(
            line["finding"].split(", ")
        )
        assert found[key].licence == line["license"] and found[key].patient == str(line["patient_id"])
    card = (out / "README.md").read_text()
    counts = Counter(str(one.split) for one in found.values())
    assert f"read {len(lines)} = written {len(lines)} + rejected 0" in card and "**Licence:** your own" in card
    assert all(f"| {split} | {count} |" in card for split, count in counts.items())
    assert "words per text" in card and "| CC BY-NC-SA |" in card


@pytest.mark.skipif(not (SHARED_DATA / "vqa_rad").is_dir(), reason="../shared/data/vqa_rad is not here")
def test_the_real_vqa_rad_pairs(tmp_path: Path) -> None:
    mapping = ["key=id", "image=image", "report=qa_text", "labels=organ", "patient=patient_id"]
    out = tmp_path / "out"
    build("pairs", "--raw", SHARED_DATA / "vqa_rad", "--out", out, "--closed-labels", "--map", *mapping)
    found = samples(out)
    assert len(found) == 314
    assert all(
        sum(one.labels.values()) == 1 and set(one.labels) == {"head", "chest", "abdomen"} for one in found.values()
    )
    assert all(one.report and one.report.sentences for one in found.values())


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="this pydicom ships no files")
def test_a_folder_of_dicom_of_many_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file becomes a sample or has a reason that names what is wrong with it; none is an unforeseen error."""
    out = tmp_path / "out"
    words = ("--no-text", "keep", "--ids", "keep", "--max-rejected", 1, "--workers", 0, "--follow-links")
    build("dicom_folder", "--raw", SHIPPED, "--out", out, *words)
    found, reasons = samples(out), Counter(rejected(out).values())
    assert len(found) >= 20 and verify(out) == []
    assert "error" not in reasons and {"image_no_pixels", "image_unreadable"} <= set(reasons), reasons
    assert all(one.steps for one in found.values())
    written = capsys.readouterr().out
    assert f"= written {len(found)} + rejected" in written
