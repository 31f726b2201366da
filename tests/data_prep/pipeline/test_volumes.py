"""What becomes of volumes on their way into a set and in the commands that look at one."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.data_prep.pipeline.built import build, rejected, samples
from tests.data_prep.sources import trees, volumes
from tests.modalities.volume import written as files
from vlp.modalities.volume import store
from vlp.modalities.volume.volume import Volume
from vlp.sample import HU_EDGES
from vlp_prep.cli import main
from vlp_prep.images.contact_sheet import COLOURS, picture
from vlp_prep.images.planes import planes_of
from vlp_prep.images.volumes import FACE, besides_voxels, shows_head, store_volume

AFFINE = np.diag([-0.7, -0.7, 1.5, 1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two reconstructions of one scan and another one, with a box and a mask."""
    raw = tmp_path / "raw"
    scan = volumes.nifti(raw / "a_1.nii.gz", 1, shape=(20, 24, 16))
    files.nifti(
        raw / "a_2.nii.gz", scan + np.random.default_rng(0).integers(-4, 5, scan.shape).astype(np.int16), AFFINE
    )
    volumes.nifti(raw / "b_1.nii.gz", 7, shape=(20, 24, 18))
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[3:9, 5:11, 2:7] = 1
    files.nifti(raw / "a_1-lesion.nii.gz", mask, AFFINE)
    rows = [
        {"study": "a", "report": "A nodule.", "image": "", "boxes": ""},
        {"study": "b", "report": "Clear.", "image": "", "boxes": ""},
    ]
    trees.table(raw / "t.csv", [*rows, {"study": "a", "report": "", "image": "a_1", "boxes": "[[3, 5, 2, 9, 11, 7]]"}])
    words = ("--masks", "lesion={folder}/{stem}-lesion.nii.gz", "--names", r"(?P<study>[ab])_\d$", "--split", "none")
    build("nifti", "--raw", raw, "--table", "t.csv", "--out", tmp_path / "out", "--workers", 0, *words)
    return tmp_path / "out"


def test_sizes_and_values_are_counted_when_they_are_stored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = samples(folder)
    values = np.concatenate([volumes.voxels(sample).ravel() for sample in found.values()])
    expected = np.histogram(values, [-40000, *HU_EDGES, 40000])[0]
    capsys.readouterr()
    assert main(["stats", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["histogram"] == expected.tolist()
    assert record["volumes"]["voxels z"] == {
        "min": 16,
        "p5": 16,
        "p50": 16,
        "p95": 18,
        "max": 18,
        "mean": pytest.approx(50 / 3),
    }
    assert record["volumes"]["spacing z (mm)"]["max"] == 1.5 and record["volumes"]["extent x (mm)"]["max"] == 14
    assert record["counts"]["orientation of the file"] == {"LPS": 3} and record["counts"]["unit"] == {"HU": 3}
    card = (folder / "README.md").read_text()
    assert "| shard\\_size | `32` |" in card
    assert "| spacing y (mm) | 0.7 | 0.7 | 0.7 | 0.7 | 0.7 |" in card
    assert f"| 1000 and more | {expected[-1] / expected.sum():.2%}".replace("%", " %") in card


def test_a_changed_byte_of_a_volume_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    (path,) = folder.glob("*.tar")
    data = bytearray(path.read_bytes())
    at = data.index(samples(folder)["a_1"].image) + 2000  # type: ignore[arg-type]
    data[at] ^= 1
    path.write_bytes(bytes(data))
    assert main(["verify", str(folder)]) == 1
    assert "key 'a_1': bytes differ from when it was written" in capsys.readouterr().out


def test_three_planes_cross_the_box_and_show_it_where_it_is(folder: Path, tmp_path: Path) -> None:
    sample = samples(folder)["a_1"]
    for plane in planes_of(sample):
        (_, (x1, y1, x2, y2)), ((_, mask),) = plane.boxes[0], plane.masks
        marked = np.zeros(plane.pixels.shape, bool)
        marked[int(y1) : int(y2), int(x1) : int(x2)] = True
        assert np.array_equal(mask, marked)  # the box is that of the mask
    axial, coronal, sagittal = planes_of(sample)
    assert (axial.pixels.shape, coronal.pixels.shape, sagittal.pixels.shape) == ((24, 20), (16, 20), (16, 24))
    assert np.allclose([axial.size, coronal.size, sagittal.size], [(16.8, 14), (24, 14), (24, 16.8)])
    file = np.asarray(nibabel.load(tmp_path / "raw/a_1.nii.gz").dataobj)  # LPS: as it is looked at, but for z
    assert np.array_equal(axial.pixels, np.clip((file[:, :, 4].T + 1000.0) * 255 / 1400, 0, 255).astype(np.uint8))
    shown = picture(sample, 400)
    assert shown.shape == (400, 400, 3) and not shown[200:, 200:].any()
    for top, left in ((0, 0), (0, 200), (200, 0)):
        assert (shown[top : top + 200, left : left + 200] == COLOURS[0]).all(-1).any()
    for name in ("sheet.html", "sheet.png"):
        assert main(["preview", str(folder), "--out", str(tmp_path / name)]) == 0
    assert "16 x 24 x 20 voxels of 1.5 x 0.7 x 0.7 mm" in (tmp_path / "sheet.html").read_text()


def test_reconstructions_of_one_scan_are_near_duplicates(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    assert main(["dedup", str(folder), "--out", str(tmp_path / "groups.jsonl")]) == 0
    assert [json.loads(line)["keys"] for line in (tmp_path / "groups.jsonl").read_text().splitlines()] == [
        ["a_1", "a_2"]
    ]


SECRETS = ("MUSTER", "ANNA", "19510203", "MRN4711", "ACC0815", "20210427", "KLINIKUM")


def test_nothing_that_names_a_patient_reaches_a_set_of_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLP_PREP_KEY", "a secret of this hospital")
    person = {
        "PatientName": "MUSTER^ANNA",
        "PatientBirthDate": "19510203",
        "PatientID": "MRN4711",
        "AccessionNumber": "ACC0815",
    }
    more = {
        "StudyDate": "20210427",
        "InstitutionName": "KLINIKUM",
        "SeriesDescription": "MUSTER ANNA",
        "StudyInstanceUID": "1.20210427",
    }
    files.series(tmp_path / "dicom/MUSTER_ANNA", files.ct((10, 12, 9)), files.steps(10), **person, **more)
    header = {"descrip": b"MUSTER ANNA 19510203", "aux_file": b"MRN4711", "db_name": b"ANNA", "intent_name": b"ACC0815"}
    (tmp_path / "nifti").mkdir()
    files.nifti(tmp_path / "nifti/MRN4711.nii.gz", files.ct((10, 12, 9)), AFFINE, **header)
    for name, words in (("dicom", ("dicom_folder", "--series", "volume")), ("nifti", ("nifti",))):
        out = tmp_path / f"out-{name}"
        build(*words, "--raw", tmp_path / name, "--out", out, "--no-text", "keep", "--workers", 0)
        (sample,) = samples(out).values()
        assert besides_voxels(bytes(sample.image)) == []  # type: ignore[arg-type]
        kept = [json.dumps(sample.to_json()), str(store.decode(bytes(sample.image), 1 << 20).steps)]  # type: ignore[arg-type]
        kept += [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
        for secret in SECRETS:
            assert not any(secret in text for text in kept), (name, secret)
        capsys.readouterr()
        assert main(["scan", str(out)]) == 0


def phantom(across: float, along: float, margin: int = 6) -> Volume:
    """A CT of an ellipse of tissue in air, in voxels of 4 mm."""
    height, width = int(along / 4) + 2 * margin, int(across / 4) + 2 * margin
    y, x = np.ogrid[:height, :width]
    inside = ((y - height / 2 + 0.5) / (along / 8)) ** 2 + ((x - width / 2 + 0.5) / (across / 8)) ** 2 <= 1
    voxels = np.where(inside, 40, -1000).astype(np.int16)[None].repeat(50, 0)
    return Volume(voxels, np.diag([4.0, 4.0, 4.0, 1.0]))


def test_a_head_is_told_from_a_chest_and_a_neck() -> None:
    assert shows_head(phantom(155, 200))
    assert not shows_head(phantom(360, 240)) and not shows_head(phantom(110, 110))
    assert not shows_head(phantom(155, 200, margin=0))  # cut by the field of view
    assert FACE in store_volume(phantom(155, 200), 1 << 30).steps
    head = phantom(155, 200)
    brain = np.maximum(head.voxels + 1000, 0) + np.random.default_rng(0).integers(0, 40, head.shape).astype(np.int16)
    assert shows_head(Volume(brain, head.affine, "MR", (1.0, 1060.0)))


def test_what_a_volume_holds_besides_its_voxels_is_found() -> None:
    import blosc2

    array = blosc2.asarray(np.zeros((8, 8, 8), np.int16))
    array.schunk.vlmeta["PatientName"] = "MUSTER"
    array.schunk.vlmeta[store.META] = {"affine": [], "comment": "MUSTER"}
    assert besides_voxels(array.to_cframe()) == ["PatientName", "comment"]


def test_rows_without_an_image_are_of_all_images_of_their_study(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(3):
        trees.picture(raw / f"{number}.png", number)
    rows = [{"image": f"{number}.png", "study": f"s{number // 2}", "report": ""} for number in range(3)]
    texts = [{"image": "", "study": "s0", "report": "Clear."}, {"image": "", "study": "s7", "report": "A nodule."}]
    trees.table(raw / "pairs.csv", [*texts, *rows])
    build("pairs", "--raw", raw, "--out", tmp_path / "out", "--max-rejected", 1, "--workers", 0)
    found = samples(tmp_path / "out")
    assert {key: sample.report and sample.report.text for key, sample in found.items()} == {
        "0": "Clear.",
        "1": "Clear.",
    }
    assert sorted(rejected(tmp_path / "out").values()) == [
        "image_missing",
        "no_text",
    ]  # a study without images, and an image


BAD = {
    "four-axes": ("several_volumes", "volume: i"),
    "nan": ("bad_voxels", "plane"),
    "no-spacing": ("bad_spacing", "axis"),
    "two-orientations": ("two_orientations", "sform"),
    "no-orientation": ("no_orientation", "orientation"),
    "truncated": ("image_truncated", "truncated"),
    "too-large": ("volume_too_large", "limit"),
    "few-slices": ("no_volume", "at least 8 slices"),
    "rescaled-twice": ("rescaled_twice", "v2"),
    "not-rescaled": ("not_rescaled", "rescale"),
}


def bad_volume(path: Path, bad: str) -> None:
    array = files.ct((24, 24, 20) if bad == "too-large" else (10, 12, 9))
    if bad == "four-axes":
        array = array[..., None].repeat(2, 3)
    if bad == "nan":
        array = array.astype(np.float32)
        array[2, 3, 4] = np.nan
    if bad == "few-slices":
        array = array[:, :, :4]
    files.nifti(path, array + {"rescaled-twice": -1024, "not-rescaled": 1024}.get(bad, 0), AFFINE)
    if bad == "no-spacing":
        files.patched(path, srow_z=[0, 0, 1e-4, 0], qform_code=0)
    if bad == "two-orientations":
        files.patched(path, qform_code=1, qoffset_x=30)
    if bad == "no-orientation":
        files.patched(path, qform_code=0, sform_code=0)
    if bad == "truncated":
        path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes())[:-400])
        path.unlink()


def test_bad_volumes_are_refused_with_what_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    for bad in BAD:
        bad_volume(tmp_path / f"raw/{bad}.nii", bad)
    volumes.nifti(tmp_path / "raw/good.nii")
    words = ("--no-text", "keep", "--max-voxels", 5000, "--workers", 0)
    build("nifti", "--raw", tmp_path / "raw", "--out", tmp_path / "out", *words, code=2)
    said = capsys.readouterr().err
    assert "10 of 11 rejected" in said and "1 bad_spacing: no-spacing; 1 bad_voxels: nan" in said
    lines = map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    found = {line["key"]: line for line in lines}
    assert found.keys() == BAD.keys()
    for bad, (reason, remedy) in BAD.items():
        line = found[bad]
        assert line["reason"] == reason and remedy in line["detail"] and line["detail"].startswith(f"{bad}.nii"), line
