"""COCO, Pascal VOC and YOLO: boxes, polygons and run lengths arrive where they were drawn, and nothing runs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data_prep.pipeline.built import build, rejected, samples
from tests.data_prep.sources import trees
from vlp.data.tables.cells import CellError
from vlp_prep.readers.regions import parse_xml, polygon_mask, run_length_mask

HEIGHT, WIDTH = 40, 48
COMMON = ("--max-rejected", 1, "--split", "none", "--workers", 0)


def inside(sample: object, name: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(sample.masks[name], np.uint8), cv2.IMREAD_GRAYSCALE) > 0  # type: ignore[attr-defined]


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, counted one pixel at a time."""
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1).astype(int):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def packed(runs: list[int]) -> str:
    """COCO's text of run lengths, as its C code writes it (rleToString)."""
    text = ""
    for at, run in enumerate(runs):
        number, more = run - (runs[at - 2] if at > 2 else 0), True
        while more:
            bits = number & 31
            number >>= 5
            more = number != -1 if bits & 16 else number != 0
            text += chr((bits | 32 if more else bits) + 48)
    return text


def test_a_polygon_covers_the_pixels_whose_centres_it_encloses() -> None:
    whole = polygon_mask([0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT], HEIGHT, WIDTH)
    assert whole.all() and whole.shape == (HEIGHT, WIDTH)
    part = polygon_mask([2, 3, 7, 3, 7, 9, 2, 9], HEIGHT, WIDTH) > 0
    assert part.sum() == 5 * 6 and part[3:9, 2:7].all()
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = rng.uniform(-5, 50, (3, 2))
        found = polygon_mask(corners.reshape(-1).tolist(), HEIGHT, WIDTH) > 0
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        side = [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
        ]
        assert (found == (np.all(np.array(side) > 0, 0) | np.all(np.array(side) < 0, 0))).all()
    for wrong in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [0, 0, 1, 1, float("nan"), 2], [0, 0, 1, 1, "2", 2]):
        with pytest.raises(CellError, match="bad_mask"):
            polygon_mask(wrong, HEIGHT, WIDTH)


def test_run_lengths_are_read_in_both_spellings_and_only_at_the_images_size() -> None:
    rng = np.random.default_rng(1)
    for share in (0.02, 0.5, 0.98):
        mask = cv2.blur(rng.random((HEIGHT, WIDTH)), (3, 3)) < share
        runs = runs_of(mask)
        for counts in (runs, packed(runs)):
            found = run_length_mask({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
            assert ((found > 0) == mask).all()
    huge = {"size": [10**9, 10**9], "counts": [10**18]}
    for wrong in (huge, {"size": [HEIGHT, WIDTH], "counts": [1, 2]}, {"size": [HEIGHT, WIDTH], "counts": "\x7f~"}, {}):
        with pytest.raises(CellError, match="bad_mask"):
            run_length_mask(wrong, HEIGHT, WIDTH)
    with pytest.raises(CellError, match="bad_mask"):
        run_length_mask({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}, HEIGHT, WIDTH)


def coco(raw: Path, **changes: object) -> dict:
    """Two splits, images of one name in both; boxes, a polygon, run lengths, captions in a file of their own."""
    for split in ("train", "val"):
        trees.picture(raw / split / "x.png", len(split))
    trees.picture(raw / "train/negative.png", 9)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:9, 30:40] = True
    marks = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 5, 6], "segmentation": [[2, 3, 7, 3, 7, 9, 2, 9]]},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 1,
            "bbox": [30, 5, 10, 4],
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": packed(runs_of(mask))},
        },
    ]
    image = {"id": 7, "file_name": "x.png", "width": WIDTH, "height": HEIGHT, "patient_id": 12.0, **changes}
    tree = {
        "images": [image, {"id": 8, "file_name": "negative.png"}],
        "annotations": marks,
        "categories": [{"id": 1, "name": "mass"}, {"id": 3, "name": "lung nodule"}],
    }
    trees.put(raw / "annotations/instances_train.json", json.dumps(tree))
    other = {**tree, "images": [{"id": 7, "file_name": "x.png"}], "annotations": marks[:1]}
    trees.put(raw / "annotations/instances_val.json", json.dumps(other))
    said = [{"id": n, "image_id": 7, "caption": text} for n, text in enumerate(("A nodule.", "Two findings."))]
    texts = {"images": [image], "annotations": said}
    trees.put(raw / "annotations/captions_train.json", json.dumps(texts))
    trees.put(raw / "annotations/other.json", "[1, 2]")
    return tree


def test_coco(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    coco(raw)
    build("coco", "--raw", raw, "--out", out, "--closed-labels", *COMMON)
    found = samples(out)
    one = found["train_x"]
    assert [(box.phrase, box.xyxy, box.label) for box in one.boxes] == [
        ("lung nodule", (2, 3, 7, 9), "lung nodule"),
        ("mass", (30, 5, 40, 9), "mass"),
    ]
    nodule, mass = inside(one, "lung nodule"), inside(one, "mass")
    assert nodule.sum() == 30 and nodule[3:9, 2:7].all() and mass.sum() == 40 and mass[5:9, 30:40].all()
    assert one.captions == ("A nodule.", "Two findings.") and one.patient == "12"
    assert {key: sample.split for key, sample in found.items()} == {
        "train_x": "train",
        "val_x": "val",
        "train_negative": "train",
    }
    assert found["train_negative"].labels == {"lung nodule": 0, "mass": 0} and rejected(out) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"width": WIDTH * 2}, "bad_box"), ({"file_name": "../../x.png"}, "outside_raw"), ({"height": 41}, "bad_box")],
)
def test_coco_of_another_size_or_place_is_refused(changes: dict, reason: str, tmp_path: Path, capsys: object) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    coco(raw, **changes)
    (raw / "annotations/captions_train.json").unlink()
    if reason == "outside_raw":
        build("coco", "--raw", raw, "--out", out, *COMMON, code=2)
        return
    build("coco", "--raw", raw, "--out", out, *COMMON)
    assert rejected(out) == {"train_x": reason}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree["annotations"][0].pop("image_id"),
        lambda tree: tree["annotations"][0].update(image_id=99),
        lambda tree: tree["annotations"][0].update(category_id=99),
        lambda tree: tree["images"][0].pop("file_name"),
        lambda tree: tree.update(annotations={"a": 1}),
        lambda tree: tree["categories"][0].pop("name"),
    ],
)
def test_coco_that_does_not_hold_together_is_one_line(
    spoil: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = coco(tmp_path / "raw")
    spoil(tree)  # type: ignore[operator]
    trees.put(tmp_path / "raw/annotations/instances_train.json", json.dumps(tree))
    build("coco", "--raw", tmp_path / "raw", "--out", tmp_path / "out", *COMMON, code=2)
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


def voc(raw: Path, name: str, objects: str, size: tuple[int, int] = (HEIGHT, WIDTH), head: str = "") -> None:
    trees.picture(raw / "JPEGImages" / f"{name}.jpg", len(name))
    xml = f"<annotation><filename>{name}.jpg</filename><size><width>{size[1]}</width><height>{size[0]}</height></size>"
    trees.put(raw / "Annotations" / f"{name}.xml", f"{head}{xml}{objects}</annotation>")


BOX = "<object><name>mass</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>7</xmax><ymax>9</ymax></bndbox></object>"


def test_voc(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    voc(raw, "a", BOX)
    voc(raw, "b", "")
    voc(raw, "large", BOX, (HEIGHT * 2, WIDTH * 2))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    voc(raw, "bomb", BOX.replace("mass", "&b;"), head=bomb)
    voc(raw, "file", BOX.replace("mass", "&b;"), head='<!DOCTYPE x [<!ENTITY b SYSTEM "file:///etc/hostname">]>')
    voc(raw, "flat", BOX.replace("<xmax>7", "<xmax>1"))
    trees.put(raw / "Annotations/broken.xml", "<annotation><object>")
    trees.put(raw / "ImageSets/Main/train.txt", "a 1\nlarge\n")
    trees.put(raw / "ImageSets/Main/test.txt", "b\n")
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[3:9, 2:7], numbers[0] = 1, 255
    trees.put(raw / "SegmentationClass/a.png", cv2.imencode(".png", numbers)[1].tobytes())
    build("voc", "--raw", raw, "--out", out, "--classes", "mass", *COMMON)
    found = samples(out)
    assert set(found) == {"JPEGImages_a", "JPEGImages_b"}
    one = found["JPEGImages_a"]
    assert [(box.phrase, box.xyxy) for box in one.boxes] == [("mass", (2, 3, 7, 9))]  # 1-based, inclusive
    assert inside(one, "mass").sum() == 30 and one.split == "train" and found["JPEGImages_b"].split == "test"
    assert sorted(rejected(out).values()) == ["bad_box", "bad_box", "bad_xml", "bad_xml", "image_missing"]
    build("voc", "--raw", raw, "--out", out, "--no-one-based", "--no-masks", "--overwrite", *COMMON)
    assert samples(out)["JPEGImages_a"].boxes[0].xyxy == (3, 4, 7, 9)


def test_voc_masks_without_names_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path / "raw", "a", BOX)
    (tmp_path / "raw/SegmentationClass").mkdir()
    build("voc", "--raw", tmp_path / "raw", "--out", tmp_path / "out", code=2)
    assert "--classes" in capsys.readouterr().err


def test_xml_is_read_without_entities_and_to_a_bounded_depth() -> None:
    assert parse_xml(b"<a><b>1</b></a>").findtext("b") == "1"
    for wrong in (b"<a>" * 1000 + b"</a>" * 1000, b"", b"<a", b'<?xml version="1.0" encoding="no"?><a/>'):
        with pytest.raises(CellError, match="bad_xml"):
            parse_xml(wrong)
    hidden = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'.encode("utf-16")
    with pytest.raises(CellError, match="entities"):
        parse_xml(hidden)


def test_yolo(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    trees.put(raw / "data.yaml", "train: ../train/images\nnames: {0: mass, 1: nodule}\n")
    lines = {
        "a": "0 0.25 0.5 0.25 0.5\n1 0 0 0.25 0 0.25 0.5 0 0.5\n",
        "pixels": "0 12 20 12 20",
        "class": "7 0.5 0.5 0.1 0.1",
        "short": "0 0.5 0.5 0.1",
        "over": "0 0.95 0.5 0.3 0.5",
        "words": "0 nan 0.5 x 0.5",
    }
    for name, text in lines.items():
        trees.picture(raw / "train/images" / f"{name}.png", len(name))
        trees.put(raw / "train/labels" / f"{name}.txt", text)
    trees.picture(raw / "test/images/negative.png", 9)
    build("yolo", "--raw", raw, "--out", out, *COMMON)
    found = samples(out)
    one = found["train_images_a"]
    assert [(box.phrase, box.xyxy) for box in one.boxes] == [("mass", (6, 10, 18, 30)), ("nodule", (0, 0, 12, 20))]
    assert (
        inside(one, "nodule")[:20, :12].all() and inside(one, "nodule").sum() == 240 and list(one.masks) == ["nodule"]
    )
    over = found["train_images_over"]
    assert over.boxes[0].xyxy[2] == WIDTH and over.steps == ("boxes cut at the edge: 1",)
    assert found["test_images_negative"].split == "test" and found["test_images_negative"].boxes == ()
    assert rejected(out) == {f"train_images_{name}": "bad_box" for name in ("pixels", "class", "short", "words")}


@pytest.mark.parametrize("missing", ["names", "labels"])
def test_yolo_without_names_or_labels_is_one_line(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    trees.picture(raw / "images/a.png")
    if missing == "names":
        trees.put(raw / "labels/a.txt", "0 0.5 0.5 0.1 0.1")
    else:
        trees.put(raw / "classes.txt", "mass\n")
    build("yolo", "--raw", raw, "--out", tmp_path / "out", *COMMON, code=2)
    said = capsys.readouterr().err
    assert "expected" in said and said.count("\n") == 1
