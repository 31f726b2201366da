"""Shards that other tools wrote: what of them is the image, the text, the split, an id or a label, and what is said."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlp.data.shards.foreign.index import Choices
from vlp.data.shards.manifest import Manifest, ManifestError
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.verify import index_folder, verify
from vlp.sample import Sample
from vlp_prep.cli import main

Members = list[tuple[str, bytes]]


def encoded(grey: int = 0, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 5), grey).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(key: str, image: str = "jpg", text: str = "txt") -> Members:
    return [(f"{key}.{image}", encoded(len(key), "JPEG")), (f"{key}.{text}", f"Film {key}.".encode())]


def index(folder: Path, members: Members, name: str = "x.tar", **choices: Any) -> tuple[list[Sample], str]:
    """Return the samples of a set of one shard, and all that indexing it said."""
    said: list[str] = []
    write_tar(folder / name, members)
    shards = ShardSet(index_folder(folder, progress=said.append, choices=Choices(**choices)))
    return [shards.sample(number) for number in range(len(shards))], "\n".join(said)


def record(folder: Path, **fields: Any) -> tuple[Sample, str]:
    """Return the one sample of a picture and a json member, and what was said."""
    members = [("a.jpg", encoded(0, "JPEG")), ("a.json", json.dumps({"caption": "Clear.", **fields}).encode())]
    (sample,), said = index(folder, members)
    return sample, said


# --- which member is the image


@pytest.mark.parametrize(
    ("image", "other"),
    [
        ("input.png", "mask.png"),
        ("image.jpg", "seg.png"),
        ("jpg", "lung_mask.png"),
        ("JPG", "MASK.PNG"),
        ("png", "left-lung.segmentation.png"),
        ("x-ray.png", "label.png"),
        ("jpg", "labelmap.tif"),
        ("webp", "gt.png"),
    ],
)
def test_a_mask_is_never_the_image(tmp_path: Path, image: str, other: str) -> None:
    (sample,), _ = index(tmp_path, [(f"c.{other}", encoded(255)), (f"c.{image}", encoded(99)), ("c.txt", b"Clear.")])
    assert sample.image == encoded(99)
    with pytest.raises(ManifestError, match="never a mask"):
        index(tmp_path / "alone", [(f"c.{other}", encoded(255)), ("c.txt", b"Clear.")])


@pytest.mark.parametrize("mask", ["c_mask.png", "c-seg.png", "masks/c.png", "c_label.png"])
def test_a_mask_with_a_key_of_its_own_is_no_sample(tmp_path: Path, mask: str) -> None:
    samples, said = index(tmp_path, [("c.png", encoded(99)), (mask, encoded(255)), ("c.txt", b"Clear.")])
    assert [sample.key for sample in samples] == ["c"] and "1 left out" in said and "is a mask" in said
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    "folders", [("images", "labels"), ("imagesTr", "labelsTr"), (".", "gt"), ("data", "annotations")]
)
def test_masks_in_a_folder_of_another_name_are_no_samples(tmp_path: Path, folders: tuple[str, str]) -> None:
    image, mask = (f"{folder}/c".removeprefix("./") for folder in folders)
    members = [(f"{image}.png", encoded(99)), (f"{image}.txt", b"Clear."), (f"{mask}.png", encoded(255))]
    samples, said = index(tmp_path, members)
    assert [sample.key for sample in samples] == [image] and "1 left out" in said
    samples, _ = index(tmp_path / "alone", [*members[:2], (f"{folders[1]}/d.png", encoded(255))])
    assert len(samples) == 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("marked", ["boxes", "masks"])
def test_boxes_and_masks_of_a_turned_image_are_refused(tmp_path: Path, form: str, marked: str) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3
    Image.new("L", (6, 5), 9).save(buffer, form, exif=exif)
    boxes = [{"phrase": "a mass", "xyxy": [0, 0, 2, 2]}]
    members = [("b.jpg", encoded(0, "JPEG")), (f"a.{form.lower()}", buffer.getvalue())]
    members += [(f"{key}.json", json.dumps({"boxes": boxes} if marked == "boxes" else {}).encode()) for key in "ab"]
    members += [(f"{key}.m.mask.png", encoded(255)) for key in "ab" if marked == "masks"]
    samples, said = index(tmp_path, [*members, ("c.jpeg", buffer.getvalue() if form == "JPEG" else encoded(0, "JPEG"))])
    assert [sample.key for sample in samples] == ["b", "c"] and "1 left out" in said


@pytest.mark.parametrize(
    "others", [["frontal.jpg", "lat.jpg"], ["jpg", "png"], ["jpg", "heatmap.png"], ["0.jpg", "1.jpg"]]
)
def test_several_images_are_an_error_or_a_choice(tmp_path: Path, others: list[str]) -> None:
    members = [(f"c.{name}", encoded(number)) for number, name in enumerate(others)] + [("c.txt", b"Clear.")]
    with pytest.raises(ManifestError, match=f"{sorted(others)[0]}, {sorted(others)[1]}.*--image"):
        index(tmp_path, members)
    assert not (tmp_path / "manifest.jsonl").exists()
    for number, name in enumerate(others):
        (sample,), _ = index(tmp_path, members, image=name.upper())
        assert sample.image == encoded(number) and sample.report is not None
        assert verify(tmp_path) == []


def test_a_sample_without_the_chosen_image_is_left_out(tmp_path: Path) -> None:
    members = [("a.frontal.jpg", encoded()), ("a.lat.jpg", encoded()), ("b.lat.jpg", encoded())]
    samples, said = index(tmp_path, members, image="frontal.jpg")
    assert [sample.key for sample in samples] == ["a"] and "1 left out" in said


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    members = [("a.heic", b"?"), ("a.txt", b"Clear."), ("b.webp", encoded(3, "WEBP")), ("b.txt", b"Clear.")]
    samples, said = index(tmp_path, members)
    assert [sample.key for sample in samples] == ["b"] and "heic" in said
    assert verify(tmp_path) == []
    (tmp_path / "x.tar").unlink()
    with pytest.raises(ManifestError, match=r"no sample has an image.*heic"):
        index(tmp_path, [("a.heic", b"?"), ("a.txt", b"Clear.")])


@pytest.mark.parametrize("ending", [".tgz", ".TGZ", ".tar.gz", ".tar.zst", ".zip"])
def test_other_archives_are_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"train-1{ending}").write_bytes(b"?")
    with pytest.raises(ManifestError, match=f"no .*tar.*train-1{ending}"):
        index_folder(tmp_path)
    _, said = index(tmp_path, pair("a"), "train-0.tar")
    assert f"train-1{ending}" in said and "unpack" in said


# --- samples whose members lie apart, keys with dots


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_members_that_lie_apart_are_one_sample(tmp_path: Path, order: tuple[int, int]) -> None:
    pairs = [pair(f"k{number}") for number in range(5)]
    samples, _ = index(tmp_path, [members[part] for part in order for members in pairs])
    assert [sample.report.text if sample.report else "" for sample in samples] == [f"Film k{n}." for n in range(5)]
    assert verify(tmp_path) == []


@pytest.mark.parametrize("keys", [["1.2.840.1", "1.2.840.2"], ["p1.front", "p1.side"], ["7.0", "7.1"]])
def test_keys_with_dots_are_an_error_that_says_so(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ManifestError, match="dots"):
        index(tmp_path, [member for key in keys for member in pair(key)])
    for number, key in enumerate(keys):
        write_tar(tmp_path / "apart" / f"{number}.tar", pair(key))
    with pytest.raises(ManifestError, match="dot"):
        index_folder(tmp_path / "apart")


def test_one_key_with_dots_is_asked_about(tmp_path: Path) -> None:
    _, said = index(tmp_path, pair("1.2.840.1"))
    assert "1 of 1 samples have no text" in said and "dots in the keys" in said


# --- splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/0.tar", "train"),
        ("train_0.tar", "train"),
        ("TRAIN-0.tar", "train"),
        ("Test/a/0.tar", "test"),
        ("mimic-valid-000.tar", "valid"),
        ("x.validation.0.tar", "validation"),
        ("train2017/0.tar", "train"),
        ("training/0.tar", "train"),
        ("testset_0.tar", "test"),
        ("chestTest-0.tar", "test"),
        ("dev.TAR", "dev"),
        ("shard-0.tar", None),
        ("pretrain-0.tar", None),
        ("latest-0.tar", None),
        ("interval-0.tar", None),
    ],
)
def test_a_split_is_seen_wherever_a_path_names_it(tmp_path: Path, path: str, split: str | None) -> None:
    write_tar(tmp_path / path, pair("a"))
    assert index_folder(tmp_path).shards[0].split == split


@pytest.mark.parametrize("path", ["train/val-0.tar", "eval-0.tar", "holdout/0.tar", "xraytest.tar", "testfoo/0.tar"])
def test_a_split_that_is_not_understood_is_an_error(tmp_path: Path, path: str) -> None:
    write_tar(tmp_path / path, pair("a"))
    with pytest.raises(ManifestError, match="--split"):
        index_folder(tmp_path)
    assert index_folder(tmp_path, choices=Choices(split="test")).splits == ["test"]
    assert index_folder(tmp_path, choices=Choices(split="none")).splits == []


def test_splits_in_records_and_in_the_folders_of_keys(tmp_path: Path) -> None:
    def of(key: str, split: str | None) -> Members:
        return [(f"{key}.jpg", encoded()), (f"{key}.json", json.dumps({"text": "Clear.", "split": split}).encode())]

    for name, members, expected in (
        ("records", [*of("a", "TEST"), *of("b", "test")], "test"),
        ("keys", [*pair("val/a"), *pair("val/b")], "val"),
        ("none", [*of("a", None), *of("b", "p10")], None),
    ):
        index(tmp_path / name, members)
        assert Manifest.read(tmp_path / name).shards[0].split == expected
    for name, members, shard in (
        ("mixed", [*of("a", "train"), *of("b", "test")], "0.tar"),
        ("partly", [*of("a", "test"), *of("b", None)], "0.tar"),
        ("folders", [*pair("train/a"), *pair("test/b")], "0.tar"),
        ("against", of("a", "test"), "train-0.tar"),
    ):
        with pytest.raises(ManifestError, match="a shard is of one split"):
            index(tmp_path / name, members, shard)


def test_shards_without_a_split_among_others_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "more.tar", pair("b"))
    _, said = index(tmp_path, pair("a"), "train-0.tar")
    assert "1 shards name no split" in said and "more.tar" in said


# --- texts


def test_samples_without_a_text_are_counted_and_what_is_there_is_named(tmp_path: Path) -> None:
    members = [m for n in range(8) for m in pair(f"k{n}", text="txt" if n < 2 else "caption.txt")]
    _, said = index(tmp_path, members)
    assert "6 of 8 samples have no text" in said and "caption.txt (6)" in said and "jpg (8)" in said
    manifest = Manifest.read(tmp_path)
    assert (manifest.texts, manifest.shards[0].texts) == (2, 2)
    samples, said = index(tmp_path / "named", [m for n in range(3) for m in pair(f"k{n}", text="o.txt")], text="o.txt")
    assert all(sample.report for sample in samples) and said.count("\n") == 0
    blank = [("a.jpg", encoded()), ("a.txt", b" \n"), ("b.jpg", encoded()), ("b.json", b'{"report": null, "note": 1}')]
    _, said = index(tmp_path / "blank", blank)
    assert "2 of 2 samples have no text" in said and "'note'" in said


def test_manifests_of_before_texts_were_counted_are_counted_from_their_lengths(tmp_path: Path) -> None:
    index(tmp_path, [*pair("a"), ("b.jpg", encoded())])
    path = tmp_path / "manifest.jsonl"
    path.write_text(path.read_text().replace('"texts": 1, ', ""))
    manifest = Manifest.read(tmp_path)
    assert (manifest.shards[0].texts, manifest.texts) == (None, 1)


@pytest.mark.parametrize(
    ("data", "text", "said"),
    [
        ("A 3–4 cm mass.".encode("cp1252"), "A 3–4 cm mass.", "UTF-8"),
        ("Ärmel".encode("utf-16"), "Ärmel", "UTF-16"),
        ("\ufeffÄrmel".encode(), "Ärmel", ""),
        ("Ärmel".encode(), "Ärmel", ""),
    ],
)
def test_texts_in_other_encodings(tmp_path: Path, data: bytes, text: str, said: str) -> None:
    (sample,), lines = index(tmp_path, [("a.jpg", encoded()), ("a.txt", data)])
    assert sample.report is not None and sample.report.text == text
    assert said in lines and (bool(said) == ("1 texts" in lines))


@pytest.mark.parametrize("data", [b"\x81\x8d", "Clear.".encode("utf-16-le")])
def test_a_text_in_no_known_encoding_is_refused(tmp_path: Path, data: bytes) -> None:
    samples, said = index(tmp_path, [*pair("b"), ("a.jpg", encoded()), ("a.txt", data)])
    assert [sample.key for sample in samples] == ["b"] and "member 'txt'" in said


@pytest.mark.parametrize(
    ("report", "text", "sections", "sentences"),
    [
        (["Clear lungs.", None, "No effusion."], "Clear lungs. No effusion.", {}, ((0, 12), (13, 25))),
        ({"impression": "Two.", "Findings": "One."}, "One. Two.", {"findings": (0, 4), "impression": (5, 9)}, ()),
        ({"findings": ["A.", "B."], "impression": None}, "A. B.", {"findings": (0, 5)}, ()),
        ({"text": "abc", "sections": {"findings": [0, 2]}}, "abc", {"findings": (0, 2)}, ()),
    ],
)
def test_nested_reports_are_read(
    tmp_path: Path, report: Any, text: str, sections: dict[str, Any], sentences: tuple[Any, ...]
) -> None:
    found = record(tmp_path, report=report)[0].report
    assert found is not None and (found.text, dict(found.sections), found.sentences) == (text, sections, sentences)


@pytest.mark.parametrize(
    "report", [{"said": "Clear."}, [["Clear."]], 12, True, [{"text": "Clear."}], {"findings": {"a": "b"}}]
)
def test_what_is_no_report_is_refused_without_quoting_it(tmp_path: Path, report: Any) -> None:
    samples, said = index(
        tmp_path, [*pair("b"), ("a.jpg", encoded()), ("a.json", json.dumps({"report": report}).encode())]
    )
    assert [sample.key for sample in samples] == ["b"] and "1 left out" in said and "Clear" not in said


def test_several_captions_are_several_texts(tmp_path: Path) -> None:
    assert record(tmp_path, caption=["One.", "", None, " Two. "])[0].captions == ("One.", "Two.")


# --- labels and ids


@pytest.mark.parametrize(
    ("labels", "kept", "left_out"),
    [
        ({"Edema": 0.7, "Mass": -0.5}, {}, 2),
        ({"Edema": "0.7", "Mass": 1.0}, {"Mass": 1}, 1),
        ({"Edema": None, "Mass": 1}, {"Mass": 1}, 0),
        ({"Edema": "", "Mass": "0", "Nodule": -1.0, "Cyst": "NaN"}, {"Mass": 0, "Nodule": -1}, 0),
        ({"Edema": 2, "Mass": -2}, {}, 2),
        (["Edema", "Mass"], {"Edema": 1, "Mass": 1}, 0),
        (None, {}, 0),
    ],
)
def test_labels_are_kept_or_left_out_never_changed(
    tmp_path: Path, labels: Any, kept: dict[str, int], left_out: int
) -> None:
    sample, said = record(tmp_path, labels=labels)
    assert dict(sample.labels) == kept
    assert (f"{left_out} label values" in said) == bool(left_out)


@pytest.mark.parametrize(
    ("value", "patient"),
    [(12.0, "12"), ("12.0", "12"), (12, "12"), ("0012", "0012"), (" P1 ", "P1"), ("1.2.840.0", "1.2.840.0"),
     (None, None), ("None", None), ("nan", None), ("NULL", None), ("", None)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["patient", "patient_id", "subject_id"])
def test_ids_mean_what_they_say(tmp_path: Path, value: Any, patient: str | None, name: str) -> None:
    sample, _ = record(tmp_path, **{name: value}, study_id=value, groups={"sex": None, "site": 3})
    assert (sample.patient, sample.study, dict(sample.groups)) == (patient, patient, {"site": "3"})


def test_the_command_takes_the_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.f.jpg", encoded(7)), ("a.l.jpg", encoded()), ("a.o.txt", b"Clear.")]
    write_tar(tmp_path / "eval-0.tar", members)
    assert main(["index", str(tmp_path)]) == 2
    assert main(["index", str(tmp_path), "--image", "f.jpg", "--text", "o.txt", "--split", "test"]) == 0
    assert "splits: test" in capsys.readouterr().out
    sample = ShardSet(Manifest.read(tmp_path)).sample(0)
    assert sample.image == encoded(7) and sample.report is not None and sample.report.text == "Clear."


@pytest.mark.parametrize("name", ["ocr", "Note: final", "text"])
def test_a_field_of_the_json_may_be_the_text_before_all_others(tmp_path: Path, name: str) -> None:
    fields = {"report": "Not this.", "caption": "Nor this.", name: "This."}
    members = [("a.jpg", encoded(0, "JPEG")), ("a.json", json.dumps(fields).encode()), ("a.txt", b"Nor that.")]
    (sample,), said = index(tmp_path, members, text=name)
    assert sample.report is not None and sample.report.text == "This." and not sample.captions
    assert verify(tmp_path) == []
    bare = [*members, ("b.jpg", encoded(0, "JPEG")), ("b.txt", b"Clear."), ("c.jpg", encoded()), ("c.json", b"{}")]
    samples, said = index(tmp_path, bare, text=name)
    assert [sample.report and sample.report.text for sample in samples] == ["This.", "Clear.", None]
    assert f"2 samples have no {name!r}" in said


def test_a_member_that_is_chosen_comes_before_the_fields_of_the_json(tmp_path: Path) -> None:
    fields = {"text": "Not this.", "captions": ["Nor this."]}
    members = [("a.jpg", encoded(0, "JPEG")), ("a.json", json.dumps(fields).encode()), ("a.note.txt", b"This.")]
    (sample,), _ = index(tmp_path, members, text="note.txt")
    assert sample.report is not None and sample.report.text == "This." and not sample.captions


@pytest.mark.parametrize("names", [["0.txt", "1.txt", "10.txt"], ["caption_0.txt", "caption_1.txt", "caption_02.txt"]])
def test_numbered_texts_are_several_captions(tmp_path: Path, names: list[str]) -> None:
    members = [("a.jpg", encoded(0, "JPEG"))]
    members += [(f"a.{name}", f"Text {at}.".encode()) for at, name in reversed(list(enumerate(names)))]
    (sample,), said = index(tmp_path, members)
    assert sample.captions == ("Text 0.", "Text 1.", "Text 2.") and sample.report is None and "not read" not in said


def test_what_index_left_out_is_no_problem_of_the_set_and_what_the_manifest_hides_is(tmp_path: Path) -> None:
    members = [*pair("a"), *pair("b"), ("c.jpg", encoded()), ("c.json", b'{"boxes": "all"}')]
    samples, said = index(tmp_path, members)
    assert [sample.key for sample in samples] == ["a", "b"] and "1 left out" in said and verify(tmp_path) == []
    path = tmp_path / "manifest.jsonl"
    line = json.loads(path.read_text())
    line |= {"samples": 1, "texts": 1, **{name: line[name][:1] for name in ("keys", "chars", "crc32")}}
    line["members"] = {name: [values[:1] for values in pair] for name, pair in line["members"].items()}
    path.write_text(json.dumps(line) + "\n")
    assert "holds 2 samples, the manifest lists 1" in str(verify(tmp_path))
