"""`vlp-prep build` end to end: real files, real processes, and every kind of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data_prep.pipeline.built import build, rejected, samples
from tests.data_prep.sources import trees
from vlp_prep.cli import main


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    raw = trees.pairs(tmp_path / "raw", 60)
    for workers in (0, 1, 2):
        build("pairs", "--raw", raw, "--out", tmp_path / f"w{workers}", "--workers", workers, "--shard-size", 7)
    assert contents(tmp_path / "w0") == contents(tmp_path / "w1") == contents(tmp_path / "w2")


def test_job_arrays_make_what_one_machine_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = trees.pairs(tmp_path / "raw", 40)
    common = ("pairs", "--raw", raw, "--workers", 0, "--shard-size", 5)
    build(*common, "--out", tmp_path / "one")
    for part in (2, 0, 1):
        build(*common, "--out", tmp_path / "many", "--shard-of", f"{part}/3")
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert "shards are other jobs' and not there yet" in capsys.readouterr().out


def test_a_ray_cluster_makes_what_one_machine_makes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    raw = trees.pairs(tmp_path / "raw", 40)
    common = ("pairs", "--raw", raw, "--shard-size", 15)
    build(*common, "--out", tmp_path / "one", "--workers", 0)
    build(*common, "--out", tmp_path / "ray", "--engine", "ray")
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


def test_resuming_keeps_what_is_finished(tmp_path: Path) -> None:
    raw = trees.pairs(tmp_path / "raw", 40)
    common = ("pairs", "--raw", raw, "--workers", 0, "--shard-size", 5)
    build(*common, "--out", tmp_path / "whole")
    out = tmp_path / "out"
    build(*common, "--out", out, "--shard-of", "0/2")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert finished
    build(*common, "--out", out, "--resume")
    assert contents(out) == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())


def test_metadata_of_images_does_not_get_into_shards(tmp_path: Path) -> None:
    from PIL import Image, PngImagePlugin

    exif = Image.Exif()
    exif[0x010E] = "Jane Doe, MRN 123456"
    note = PngImagePlugin.PngInfo()
    note.add_text("patient", "Jane Doe")
    raw = tmp_path / "raw"
    trees.put(raw / "a.jpg", trees.encoded("JPEG", 1, exif=exif, comment=b"Jane Doe"))
    trees.put(raw / "b.png", trees.encoded("PNG", 1, pnginfo=note))
    exif[0x0112] = 6
    trees.put(raw / "c.jpg", trees.encoded("JPEG", 1, exif=exif))
    trees.table(raw / "pairs.csv", [{"image": name, "report": "Clear."} for name in ("a.jpg", "b.png", "c.jpg")])
    build("pairs", "--raw", raw, "--out", tmp_path / "out", "--split", "none")
    found = samples(tmp_path / "out")
    assert all(b"Jane" not in bytes(one.image) for one in found.values())  # type: ignore[arg-type]

    def decoded(key: str) -> np.ndarray:
        import io

        return np.asarray(Image.open(io.BytesIO(bytes(found[key].image))))  # type: ignore[arg-type]

    plain = np.asarray(Image.open(raw / "a.jpg"))
    assert np.array_equal(decoded("a"), plain) and np.array_equal(decoded("b"), trees.pixels(1))
    assert decoded("c").shape == (48, 40) and np.abs(decoded("c") - np.rot90(plain, -1).astype(int)).mean() < 3


def test_ids_become_keyed_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = trees.pairs(tmp_path / "raw", 6)
    (raw / "images" / "i3.jpg").unlink()
    common = ("pairs", "--raw", raw, "--max-rejected", 1, "--split", "none")
    build(*common, "--out", tmp_path / "plain")
    outs = []
    for name, key in (
        ("a", "a secret of the hospital"),
        ("b", "a secret of the hospital"),
        ("c", "quite another secret"),
    ):
        monkeypatch.setenv("VLP_PREP_KEY", key)
        build(*common, "--out", tmp_path / name)
        outs.append(samples(tmp_path / name))
        everything = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
        assert key.encode() not in everything
        assert b"images_i3" not in everything and b"i3.jpg" not in everything and b'"p1"' not in everything
    assert {key: one.patient for key, one in outs[0].items()} == {key: one.patient for key, one in outs[1].items()}
    assert not set(outs[0]) & set(outs[2]) and not set(outs[0]) & set(samples(tmp_path / "plain"))
    assert len({one.patient for one in outs[0].values()}) == 3
    monkeypatch.setenv("VLP_PREP_KEY", "short")
    build(*common, "--out", tmp_path / "d", code=2)


def test_mentions_of_somebody_elses_linker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    texts = ["Right lung mass. No effusion.", "Clear lungs.", "Never linked."]
    for number in range(len(texts)):
        trees.picture(raw / f"{number}.jpg", number)
    trees.table(raw / "pairs.csv", [{"image": f"{n}.jpg", "report": text} for n, text in enumerate(texts)])
    mass = {"umls_cui": "C0149726", "umls_similarity": 0.93, "start_char": 8, "end_char": 17}
    lines = [
        {"caption": "Some other caption.", "umls_meta_info": []},
        {"caption": f"  {texts[0]}\n", "image": "elsewhere.jpg", "umls_meta_info": [mass]},
        {"caption": texts[1], "umls_meta_info": []},
    ]
    linked = trees.put(tmp_path / "linked.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    common = ("pairs", "--raw", raw, "--split", "none", "--shard-size", 1)
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        build(*common, "--out", out, "--concepts", linked, "--workers", workers)
        assert "linked.jsonl has mentions for 1 of 3 samples" in capsys.readouterr().out
        found = samples(out)
        (one,) = found["0"].concepts
        assert (one.text, one.code, one.start, one.end, one.assertion, one.side) == (
            *("lung mass", "C0149726", 6, 15, "present", "right"),
        )
        assert texts[0][one.start : one.end] == one.text and found["1"].concepts == found["2"].concepts == ()
        assert str(tmp_path) not in (out / "README.md").read_text()
    assert contents(tmp_path / "out0") == contents(tmp_path / "out2")
    linked.write_text(linked.read_text() + "{}\n")  # another file under the same name is not gone on with
    build(*common, "--out", tmp_path / "out0", "--concepts", linked, "--resume", code=2)
    assert "was built with other options" in capsys.readouterr().err
    for file, complaint in (
        (linked, "linked.jsonl:4: expected a mapping with 'caption'"),
        ("gone.jsonl", "cannot read gone"),
    ):
        build(*common, "--out", tmp_path / "bad", "--concepts", file, code=2)
        said = capsys.readouterr().err
        assert complaint in said and said.count("\n") == 1 and not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("policy", "written", "counted"), [("reject", 2, True), ("drop", 2, False), ("keep", 3, False), ("test", 2, False)]
)
def test_images_without_a_text(policy: str, written: int, counted: bool, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    texts = ("Clear lungs.", "1. 2. ___", "Effusion.")
    for number in range(len(texts)):
        trees.picture(raw / f"{number}.jpg", number)
    trees.table(
        raw / "pairs.csv", [{"image": f"{n}.jpg", "report": text, "split": "train"} for n, text in enumerate(texts)]
    )
    out = tmp_path / "out"
    build("pairs", "--raw", raw, "--out", out, "--clean", "--no-text", policy, code=2 if counted else 0)
    found = samples(out)
    assert len(found) == written and rejected(out) == ({} if written == 3 else {"1": "no_text"})
    assert all(one.report is None or one.report.text for one in found.values())
    assert (found["1"].report is None) if "1" in found else written == 2


def test_images_shrink_with_their_boxes_and_masks(tmp_path: Path) -> None:
    import io

    from PIL import Image

    raw = tmp_path / "raw"
    trees.picture(raw / "i.jpg", 1, height=200, width=400)
    mask = np.zeros((200, 400), np.uint8)
    mask[100:200, 0:200] = 1
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    trees.put(raw / "m.png", buffer.getvalue())
    row = {
        "image": "i.jpg",
        "report": "Nodule.",
        "boxes": '{"nodule": [40, 20, 80, 60]}',
        "masks": '{"left lung": "m.png"}',
    }
    trees.table(raw / "pairs.csv", [row])
    build("pairs", "--raw", raw, "--out", tmp_path / "out", "--max-side", 100, "--split", "none")
    (one,) = samples(tmp_path / "out").values()
    assert one.boxes[0].xyxy == (10.0, 5.0, 20.0, 15.0)
    stored = np.asarray(Image.open(io.BytesIO(bytes(one.image))))  # type: ignore[arg-type]
    inside = np.asarray(Image.open(io.BytesIO(one.masks["left lung"])))
    assert stored.shape == inside.shape == (50, 100)
    assert (inside[25:, :50] == 255).all() and inside.sum() == 255 * 25 * 50


def test_complaints_are_one_line_that_names_the_right_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = trees.pairs(tmp_path / "raw", 2)
    for words, expected in (
        (["build", "pears", "--out", "x"], "unknown source 'pears': did you mean 'pairs'?"),
        (["build", "pairs", "--raw", str(tmp_path / "no"), "--out", "x"], "needs --raw"),
        (
            ["build", "pairs", "--raw", str(raw), "--out", str(tmp_path / "x"), "--map", "report=raport"],
            "no column 'raport'",
        ),
        (
            ["build", "pairs", "--raw", str(raw), "--out", str(tmp_path / "x"), "--map", "repot=report"],
            "did you mean 'report'",
        ),
        (["build", "pairs", "--raw", str(raw), "--out", str(tmp_path / "x"), "--split", "0.5,0.1"], "add up to 1"),
        (["build", "pairs", "--raw", str(raw), "--out", str(raw)], "is not empty"),
        (["build", "dicom_folder", "--raw", str(raw), "--out", str(tmp_path / "x")], "VLP_PREP_KEY"),
        (["verify", str(tmp_path / "nothing")], "nothing"),
        (["virify"], "did you mean 'verify'"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1, said


def test_a_build_is_not_mixed_with_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = trees.pairs(tmp_path / "raw", 10), tmp_path / "out"
    build("pairs", "--raw", raw, "--out", out)
    build("pairs", "--raw", raw, "--out", out, code=2)
    assert "already holds a build" in capsys.readouterr().err
    build("pairs", "--raw", raw, "--out", out, "--resume", "--seed", 1, code=2)
    assert "was built with other options" in capsys.readouterr().err
    trees.pairs(raw, 12)
    build("pairs", "--raw", raw, "--out", out, "--resume", code=2)
    assert "the raw data has changed" in capsys.readouterr().err
    build("pairs", "--raw", raw, "--out", out, "--overwrite", "--seed", 1)
    assert len(samples(out)) == 12


@pytest.mark.parametrize("form", ["jsonl", "parquet", "tsv", "json", "csv.gz"])
def test_tables_of_every_form_give_the_same_shards(form: str, tmp_path: Path) -> None:
    import pandas as pd

    raw = trees.pairs(tmp_path / "raw", 8)
    frame = pd.read_csv(raw / "pairs.csv")
    build("pairs", "--raw", raw, "--out", tmp_path / "csv", "--table", "pairs.csv")
    write = {
        "jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "json": lambda path: frame.to_json(path, orient="records"),
        "parquet": frame.to_parquet,
        "tsv": lambda path: frame.to_csv(path, index=False, sep="\t"),
        "csv.gz": lambda path: frame.to_csv(path, index=False),
    }
    write[form](raw / f"other.{form}")
    build("pairs", "--raw", raw, "--out", tmp_path / "out", "--table", f"other.{form}")
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "csv")
    assert {name: data for name, data in ours.items() if name != "README.md"} == {
        name: data for name, data in theirs.items() if name != "README.md"
    }


def test_images_as_bytes_in_parquet_and_base64(tmp_path: Path) -> None:
    import base64

    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = tmp_path / "raw"
    raw.mkdir()
    images = [trees.encoded("PNG", number) for number in range(5)]
    columns = {"image": [{"bytes": one, "path": None} for one in images], "report": ["Clear."] * 5}
    pq.write_table(pa.table(columns), raw / "pairs.parquet", row_group_size=2)
    build("pairs", "--raw", raw, "--out", tmp_path / "a", "--workers", 2, "--split", "none")
    trees.table(raw / "b.csv", [{"bytes": base64.b64encode(one).decode(), "report": "Clear."} for one in images])
    build("pairs", "--raw", raw, "--table", "b.csv", "--out", tmp_path / "b", "--split", "none")
    for folder in ("a", "b"):
        found = samples(tmp_path / folder)
        assert [found[f"row{number:08d}"].image for number in range(5)] == images
