"""Builds from tables of one's own and of the Hub: nothing is lost, merged, stretched or shown that should not be."""

import json
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data_prep.pipeline.built import build, rejected, samples
from tests.data_prep.sources import trees
from vlp.core.errors import printable
from vlp_prep.cli import main
from vlp_prep.pipeline.data_card import plain
from vlp_prep.readers.hub_folder import split_of

COMMON = ("--max-rejected", 1, "--workers", 0)


def own(raw: Path, table: str, images: int = 0, name: str = "pairs.csv", split: str = "none", *words: object) -> dict:
    """Build a table over images 0.png, 1.png, ...; return the samples."""
    for number in range(images):
        trees.picture(raw / f"{number}.png", number)
    trees.put(raw / name, table)
    build("pairs", "--raw", raw, "--out", raw.parent / "out", "--split", split, *COMMON, *words)
    return samples(raw.parent / "out")


def details(out: Path) -> dict[str, str]:
    lines = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    return {line["key"]: f"{line['reason']}: {line['detail']}" for line in lines}


def test_rows_of_one_image_are_one_sample_with_all_their_texts(tmp_path: Path) -> None:
    table = (
        "image,captions,report,patient,Mass\n0.png,A.,Report.,P1,1\n1.png,Other.,,P2,0\n./0.png,B.,ADDENDUM: x.,P1 ,\n"
    )
    found = own(tmp_path / "raw", table, 2, "pairs.csv", "none", "--map", "labels=Mass")
    one = found["0"]
    assert one.captions == ("A.", "B.") and one.report.text == "Report.\nADDENDUM: x." and one.labels == {"Mass": 1}
    assert set(found) == {"0", "1"} and one.patient == "P1"


def test_rows_of_one_image_that_contradict_are_rejected_by_name(tmp_path: Path) -> None:
    table = "image,captions,patient,Mass\n0.png,A.,P1,1\n0.png,B.,P2,1\n1.png,A.,P1,1\n1.png,B.,P1,0\n2.png,A.,,\n2.png,A.,,\n"
    found = own(tmp_path / "raw", table, 3, "pairs.csv", "none", "--map", "labels=Mass")
    assert set(found) == {"2"}
    why = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in why] == [
        ("0", "conflicting_rows"),
        ("1", "conflicting_rows"),
        ("2", "duplicate_key"),
    ]
    assert "'patient'" in why[0]["detail"] and "'Mass'" in why[1]["detail"] and "P2" not in str(why)


def test_one_patient_is_on_one_side_however_the_id_is_written(tmp_path: Path) -> None:
    spelled = ("12", "12.0", "12 ", " 12", "12.00")
    rows = "".join(f"{at}.png,Clear.,{spelled[at % 5]}\n" for at in range(20))
    found = own(tmp_path / "raw", f"image,report,patient\n{rows}", 20, "pairs.csv", "0.5,0.5")
    assert {one.patient for one in found.values()} == {"12"} and len({one.split for one in found.values()}) == 1


def test_a_label_column_is_values_or_names_by_what_is_in_it(tmp_path: Path) -> None:
    table = "image,report,labels\n0.png,a,1\n1.png,a,see report of Mr X\n2.png,a,0\n"
    found = own(tmp_path / "raw", table, 3)
    assert [dict(found[key].labels) for key in ("0", "2")] == [{"labels": 1}, {"labels": 0}]
    assert rejected(tmp_path / "out") == {"1": "bad_label"}
    assert "Mr X" not in (tmp_path / "out/rejected.jsonl").read_text() + (tmp_path / "out/README.md").read_text()


def test_json_lines_with_gaps_lose_nothing(tmp_path: Path) -> None:
    rows = [
        {"image": "0.png", "report": "a"},
        {"image": "1.png", "report": "a", "patient": None, "labels": {"Mass": 0}},
    ]
    rows += [{"image": "2.png", "findings": "b", "boxes": [{"phrase": "x", "box": [1, 1, 9, 9]}], "patient_id": 7.0}]
    found = own(tmp_path / "raw", "\n".join(map(json.dumps, rows)), 3, "pairs.jsonl")
    assert found["1"].labels == {"Mass": 0} and found["1"].patient is None
    assert found["2"].boxes[0].xyxy == (1, 1, 9, 9) and found["2"].report.text == "FINDINGS: b"


@pytest.mark.parametrize(
    "image",
    ["http://example.org/a.png", "file:///etc/hostname", "../secret.png", "/etc/hostname", "simplecache::s3://a/b"],
)
def test_a_path_that_leaves_the_folder_is_rejected_with_the_reason(image: str, tmp_path: Path) -> None:
    trees.picture(tmp_path / "secret.png")
    own(tmp_path / "raw", f"image,report\n0.png,a\n{image},a\n", 1)
    (why,) = details(tmp_path / "out").values()
    assert why.startswith("outside_raw") and ("URL" in why or "leaves the folder" in why)


def test_a_mask_of_another_size_is_refused_and_a_cut_box_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    for name, shape in (("same", (40, 48)), ("half", (20, 24)), ("turned", (48, 40))):
        trees.put(raw / f"{name}.png", cv2.imencode(".png", np.full(shape, 255, np.uint8))[1].tobytes())
    rows = [
        {"image": f"{at}.png", "report": "a", "masks": {"lung": f"{name}.png"}}
        for at, name in enumerate(("same", "half", "turned"))
    ]
    rows += [
        {"image": f"{at}.png", "report": "a", "boxes": {"x": box}}
        for at, box in ((3, [1, 1, 99, 9]), (4, [60, 1, 99, 9]))
    ]
    found = own(raw, "\n".join(map(json.dumps, rows)), 5, "pairs.jsonl", "none", "--max-side", 24)
    assert set(found) == {"0", "3"} and rejected(tmp_path / "out") == {"1": "bad_mask", "2": "bad_mask", "4": "bad_box"}
    assert cv2.imdecode(np.frombuffer(found["0"].masks["lung"], np.uint8), 0).shape == (20, 24)
    assert found["3"].steps[-1] == "boxes cut at the edge: 1"
    assert "1 images have boxes that reach beyond the edge" in capsys.readouterr().err
    assert "| boxes cut at the edge | 1 |" in (tmp_path / "out/README.md").read_text()


def test_no_patient_column_is_said_at_build_and_in_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own(tmp_path / "raw", "image,report,patient\n0.png,a,P\n1.png,a,\n2.png,a,None\n", 3)
    assert "2 of 3 images state no patient" in capsys.readouterr().err
    assert (
        "**2 of 3 images state no patient.** For them splits are by image" in (tmp_path / "out/README.md").read_text()
    )
    own(tmp_path / "all/raw", "image,report,patient\n0.png,a,P\n", 1)
    assert "state no patient" not in capsys.readouterr().err + (tmp_path / "all/out/README.md").read_text()


def test_rejected_files_are_found_again_by_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLP_PREP_KEY", "a secret of this hospital")
    table = "image,report,patient\n0.png,a,P1\nDoe_Jane_1.png,Mr Smith has a mass.,P2\n"
    own(tmp_path / "raw", table, 1)
    private = tmp_path / "rejected-private-out.jsonl"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    (line,) = map(json.loads, private.read_text().splitlines())
    assert (
        line["key"] == "Doe_Jane_1" and "row 2, Doe_Jane_1.png" in line["place"] and line["reason"] == "image_missing"
    )
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"Doe" not in written and b"Smith" not in written


def test_a_failing_overwrite_leaves_the_old_set_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    own(raw, "image,report\n0.png,old\n1.png,old\n", 2)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert (tmp_path / "rejected-private-out.jsonl").exists() is False
    words = ("pairs", "--raw", raw, "--out", out, "--split", "none", "--workers", 0, "--overwrite")
    for table in ("image,report\n0.png,new\ngone.png,new\n", "image,report\n0.png\n", "picture,report\n"):
        trees.put(raw / "pairs.csv", table)
        build(*words, code=2)
        assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert ".overwrite/rejected.jsonl" not in capsys.readouterr().out
    trees.put(raw / "pairs.csv", "image,report\n0.png,new\n")
    build(*words)
    assert {one.report.text for one in samples(out).values() if one.report} == {"new"}
    assert sorted(path.name for path in out.iterdir()) == [
        ".build",
        "README.md",
        "manifest.jsonl",
        "rejected.jsonl",
        "shard-000000.tar",
    ]
    build("pairs", "--raw", raw, "--out", out, "--split", "none", "--workers", 0, "--resume")  # its mark came along


def test_the_card_shows_what_the_data_says_as_text(tmp_path: Path) -> None:
    evil = [
        "<script>alert(1)</script>",
        "[x](http://evil.example)",
        "![x](http://evil.example/a.png)",
        "a|b",
        "`rm`",
        "https://evil.example",
        "www.evil.example",
        "# head",
        "a\nb\x1b[31m",
        "me@evil.example",
        "&lt;",
    ]
    import re

    for word in evil:
        shown = plain(word)
        assert "\n" not in shown and "\x1b" not in shown and "<" not in shown
        assert not re.search(r"(?<!\\)[\[\]|`]", shown) and not re.search(r"https?://|www\.|\w@", shown)
    rows = [
        {"image": "0.png", "report": "a", "view": "[x](http://evil.example)", "site": "<b>|x", "labels": {"<i>`|": 1}}
    ]
    own(tmp_path / "raw", "\n".join(map(json.dumps, rows)), 1, "pairs.jsonl", "none", "--licence", "<img src=x>`")
    card = (tmp_path / "out/README.md").read_text()
    outside_code = re.sub(r"`[^`]*`", "", card)
    assert "<" not in outside_code and "](http" not in card and outside_code.count("`") == 0
    assert all(line.count("|") - line.count("\\|") in (3, 4, 5) for line in card.splitlines() if line.startswith("|"))


def test_split_keeps_the_card(tmp_path: Path) -> None:
    own(tmp_path / "raw", "image,report,patient\n" + "".join(f"{n}.png,a,P{n}\n" for n in range(8)), 8)
    card = (tmp_path / "out/README.md").read_text()
    for name, source in (("split", "out"), ("again", "split")):
        assert main(["split", str(tmp_path / source), "--split", "0.5,0.25,0.25", "--out", str(tmp_path / name)]) == 0
        kept = (tmp_path / name / "README.md").read_text()
        assert (
            kept.startswith(card.rstrip("\n")) and kept.count("## Split anew") == 1 and "--split 0.5,0.25,0.25" in kept
        )
        counts = {one.split for one in samples(tmp_path / name).values()}
        assert all(f"| {split} | " in kept.partition("## Split anew")[2] for split in counts)
        assert (tmp_path / name / "rejected.jsonl").exists()


def test_no_escape_sequence_of_the_data_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec\nd"
    evil = "a\x1b]0;title\x07"
    trees.put(tmp_path / "raw/pairs.csv", f"image,report\n{evil}.png,a\n")
    assert (
        main(["build", "pairs", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--workers", "0"]) == 2
    )
    trees.put(tmp_path / "raw/pairs.csv", f"{evil},report\n0.png,a\n")
    assert main(["build", "pairs", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "x"), "--workers", "0"]) == 2
    said = capsys.readouterr()
    assert "\x07" not in said.out + said.err and "\x1b]" not in said.out + said.err


def hub(place: Path, *words: object, code: int = 0) -> dict:
    out = place.parent / "hub-out"
    build("hf", "--dataset", place, "--out", out, *COMMON, *words, code=code)
    return samples(out) if code == 0 else {}


def parquet(path: Path, first: int, rows: int = 2) -> None:
    import datasets

    columns = {
        "image": [{"bytes": trees.encoded("PNG", first + at), "path": "x.png"} for at in range(rows)],
        "report": [f"Report {first + at}." for at in range(rows)],
        "patient": [None if at else f"P{first}" for at in range(rows)],
        "label": [at % 2 for at in range(rows)],
    }
    features = datasets.Features(
        image=datasets.Image(),
        report=datasets.Value("string"),
        patient=datasets.Value("string"),
        label=datasets.ClassLabel(names=["sick", "well"]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))


def test_a_clone_of_the_hub_is_read_with_its_splits(tmp_path: Path) -> None:
    place = tmp_path / "clone"
    parquet(place / "data/train-00000-of-00002.parquet", 0)
    parquet(place / "data/train-00001-of-00002.parquet", 10)
    parquet(place / "data/validation-00000-of-00001.parquet", 20)
    parquet(place / "data/test-00000-of-00001.parquet", 30)
    trees.put(place / "README.md", "---\nconfigs: []\n---\n")
    trees.put(place / "loader.py", "raise SystemExit('a script of a stranger ran')\n")
    trees.put(place / ".git/config", "x")
    found = hub(place)
    assert {key: (one.split, one.report.text) for key, one in found.items() if "000001" in key} == {
        "train_00000001": ("train", "Report 1."),
        "val_00000001": ("val", "Report 21."),
        "test_00000001": ("test", "Report 31."),
    }
    assert len(found) == 8 and found["train_00000002"].report.text == "Report 10."
    assert found["train_00000000"].labels == {"sick": 1, "well": 0} and found["train_00000001"].patient is None
    assert cv2.imdecode(np.frombuffer(found["val_00000000"].image, np.uint8), 0).tolist() == trees.pixels(20).tolist()


def test_a_single_parquet_file_is_read(tmp_path: Path) -> None:
    parquet(tmp_path / "mine.parquet", 5)
    found = hub(tmp_path / "mine.parquet")
    assert set(found) == {"all_00000000", "all_00000001"} and found["all_00000000"].split in ("train", "val", "test")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_imagefolder_with_metadata_is_read(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "folder"
    rows = [{"file_name": f"img/{at}.png", "text": f"Text {at}.", "patient_id": f"00{at}"} for at in range(2)]
    for split in ("train", "Test"):
        for at in range(2):
            trees.picture(place / split / f"img/{at}.png", at + len(split))
        path = place / split / f"metadata.{kind}"
        if kind == "csv":
            trees.table(path, rows)
        elif kind == "jsonl":
            trees.put(path, "\n".join(map(json.dumps, rows)))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), path)
    found = hub(place)
    assert len(found) == 4 and sorted(str(one.split) for one in found.values()) == ["test", "test", "train", "train"]
    assert {one.report.text for one in found.values()} == {"Text 0.", "Text 1."}
    assert {one.patient for one in found.values()} == {"000", "001"}


def test_a_folder_of_classes_is_read(tmp_path: Path) -> None:
    for at, name in enumerate(("train/sick/a.png", "train/well/b.png", "test/well/a.png")):
        trees.picture(tmp_path / "folder" / name, at)
    found = hub(tmp_path / "folder", "--no-text", "keep")
    assert found["train_sick_a"].labels == {"sick": 1, "well": 0} and found["test_well_a"].split == "test"


def test_a_hub_folder_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "clone"
    (place / "empty").mkdir(parents=True)
    hub(place, code=2)
    trees.put(place / "train.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    hub(place, code=2)
    said = capsys.readouterr().err
    assert "holds no tables and no images" in said and "git lfs pull" in said and said.count("\n") == 2
    (place / "train.parquet").unlink()
    for name in ("a", "b"):
        trees.put(place / name / "train.csv", f"image,{name}\n0.png,x\n")
    hub(place, code=2)
    assert "give --subset" in capsys.readouterr().err


def test_a_hub_table_reads_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    trees.picture(tmp_path / "secret.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link.png").symlink_to(tmp_path / "secret.png")
    rows = [{"image": {"bytes": None, "path": str(tmp_path / "secret.png")}, "report": "a"}]
    rows += [
        {"image": {"bytes": None, "path": "link.png"}, "report": "a"},
        {"image": {"bytes": None, "path": "../secret.png"}, "report": "a"},
    ]
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema([("image", kind), ("report", pa.string())])),
        tmp_path / "folder/train.parquet",
    )
    build("hf", "--dataset", tmp_path / "folder", "--out", tmp_path / "out", *COMMON)
    assert set(rejected(tmp_path / "out").values()) == {"outside_raw"} and len(rejected(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("place", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("TRAIN/a.parquet", "train"),
        ("my_validation.csv", "val"),
        ("dev/metadata.csv", "val"),
        ("test2017.json", "test"),
        ("training/test/a.csv", "test"),
        ("constraint.csv", None),
        ("latest/a.csv", None),
        ("device.csv", None),
    ],
)
def test_splits_are_read_from_names(place: str, split: str | None) -> None:
    assert split_of(place) == split
