"""The other commands of vlp-prep, on small sets: verify, index, stats, preview, split, dedup, scan, tokenizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import SHARED_DATA
from tests.data_prep.sources import trees
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Box, Report, Sample
from vlp_prep.cli import COMMANDS, main
from vlp_prep.pipeline.shard_writer import ShardWriter


def write(out: Path, samples: list[Sample]) -> Path:
    with ShardWriter(out, shard_size=8, source="test") as writer:
        for sample in samples:
            writer.write(sample)
    return out


def sample(number: int, text: str = "Clear lungs.", **more: object) -> Sample:
    values: dict[str, object] = {"patient": f"p{number}", "split": "train", "report": Report(text), **more}
    image = values.pop("image", trees.encoded("JPEG", number, height=96, width=96))
    return Sample(key=f"k{number}", image=image, **values)  # type: ignore[arg-type]


def keys(folder: Path) -> set[str]:
    shards = ShardSet(Manifest.read(folder))
    return {shards.key(index) for index in range(len(shards))}


def test_one_flipped_byte_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(tmp_path / "set", [sample(number) for number in range(10)])
    assert main(["verify", str(out)]) == 0
    assert "sound: 10 samples in 2 shards" in capsys.readouterr().out
    shard = sorted(out.glob("*.tar"))[0]
    sound = shard.read_bytes()
    for place in (0, len(sound) // 3, len(sound) // 2, len(sound) - 1):
        data = bytearray(sound)
        data[place] ^= 1
        shard.write_bytes(data)
        assert main(["verify", str(out)]) == 1
        assert shard.name in capsys.readouterr().out
    shard.write_bytes(sound)
    assert main(["verify", str(out)]) == 0


def test_existing_shards_are_indexed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(tmp_path / "set", [sample(number) for number in range(3)])
    (out / "manifest.jsonl").unlink()
    assert main(["index", str(out), "--source", "mine"]) == 0
    assert "3 samples in 1 shards, splits: train" in capsys.readouterr().out and main(["verify", str(out)]) == 0


def test_stats_count_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        sample(number, " ".join(["word"] * (number + 1)), labels={"Edema": number % 2}, view="PA")
        for number in range(4)
    ]
    out = write(tmp_path / "set", words)
    assert main(["stats", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["samples"] == 4 and record["people"] == {"patient": 4, "study": 0}
    assert record["labels"] == {"Edema": {"absent": 2, "present": 2}} and record["counts"]["view"] == {"PA": 4}
    assert record["words"]["mean"] == 2.5 and record["words"]["max"] == 4 and record["longer side"]["p50"] == 96


def test_stats_tell_how_much_a_tokenizer_would_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["effusion " * length for length in (10, 100, 200, 600)]
    out = write(tmp_path / "set", [sample(number, text) for number, text in enumerate(texts)])
    words = [
        "tokenizer",
        str(out),
        "--kind",
        "wordpiece",
        "--vocab-size",
        "80",
        "--length",
        "64",
        "--out",
        str(tmp_path / "tok"),
    ]
    assert main(words) == 0
    capsys.readouterr()
    assert main(["stats", str(out), "--tokenizer", str(tmp_path / "tok"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    # "effusion" is one token of so small a vocabulary's corpus, with two special tokens around the text
    assert record["tokens"]["max"] == 602
    assert record["truncated"] == {"77": 0.75, "128": 0.5, "256": 0.25, "512": 0.25}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tokenizer: {kind: wordpiece, vocab_size: 80, length: 64}\n")
    assert main(["stats", str(out), "--tokenizer", str(recipe)]) == 0
    assert (
        "longer than: 77 tokens 75.0%, 128 tokens 50.0%, 256 tokens 25.0%, 512 tokens 25.0%" in capsys.readouterr().out
    )


def test_preview_draws_boxes_and_escapes_texts(tmp_path: Path) -> None:
    import cv2

    boxed = sample(1, "<script>alert(1)</script>", boxes=(Box("nodule & co", (24.0, 24.0, 72.0, 72.0)),))
    out = write(tmp_path / "set", [boxed, sample(2)])
    for name in ("p.png", "p.html"):
        assert main(["preview", str(out), "--n", "4", "--out", str(tmp_path / name)]) == 0
    page = (tmp_path / "p.html").read_text()
    assert "<script>" not in page and "nodule &amp; co" in page and page.count("<figure>") == 2 and "http" not in page
    sheet = cv2.imread(str(tmp_path / "p.png"))
    assert sheet.shape == (470, 1280, 3)
    # the edge of the box at a quarter of a 320 pixel picture, in the first colour, wherever the sample landed
    edges = [sheet[160, left + 80].tolist() for left in (0, 320)]
    assert [233, 180, 86] in edges
    assert main(["preview", str(out), "--out", str(tmp_path / "p.gif")]) == 2


def test_splits_are_by_patient_and_leaks_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write(tmp_path / "set", [sample(number, patient=f"p{number // 3}") for number in range(60)])
    for name in ("a", "b"):
        assert (
            main(["split", str(whole), "--out", str(tmp_path / name), "--split", "train=0.5,test=0.5", "--seed", "3"])
            == 0
        )
    assert (tmp_path / "a" / "manifest.jsonl").read_bytes() == (tmp_path / "b" / "manifest.jsonl").read_bytes()
    assert keys(tmp_path / "a") == keys(whole) and Manifest.read(tmp_path / "a").splits == ["test", "train"]
    assert main(["split", str(tmp_path / "a"), "--check", "--images"]) == 0
    leaky = write(tmp_path / "leaky", [sample(1, patient="x"), sample(2, patient="x", split="test")])
    capsys.readouterr()
    assert main(["split", str(leaky), "--check"]) == 1
    assert "patient in test and train: k2, k1" in capsys.readouterr().out


def near_copy(number: int) -> bytes:
    """The picture `number` at another size and quality."""
    import io

    from PIL import Image

    small = Image.fromarray(trees.pixels(number, 96, 96)).resize((64, 64), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def test_near_identical_images_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(number) for number in range(12)]
    samples += [sample(20 + number, image=near_copy(number), split="test") for number in range(3)]
    out = write(tmp_path / "set", samples)
    assert main(["dedup", str(out), "--out", str(tmp_path / "groups.jsonl"), "--thin", str(tmp_path / "thin")]) == 0
    groups = [set(json.loads(line)["keys"]) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert sorted(map(sorted, groups)) == [["k0", "k20"], ["k1", "k21"], ["k2", "k22"]]
    dropped = [json.loads(line) for line in (tmp_path / "thin" / "dropped.jsonl").read_text().splitlines()]
    assert len(keys(tmp_path / "thin")) == 12 and "blake2b" in dropped[0]["rule"]
    assert {one["key"] for one in dropped[1:]} == keys(out) - keys(tmp_path / "thin")
    assert main(["split", str(out), "--check"]) == 0 and main(["split", str(out), "--check", "--images"]) == 1
    assert "near-identical image in test and train" in capsys.readouterr().out
    words = ["--groups", str(tmp_path / "groups.jsonl"), "--split", "train=0.5,test=0.5"]
    assert main(["split", str(out), "--out", str(tmp_path / "apart"), *words]) == 0
    assert main(["split", str(tmp_path / "apart"), "--check", "--images"]) == 0


def test_a_set_is_not_written_into_the_set_that_it_is_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write(tmp_path / "set", [sample(number) for number in range(3)])
    for words in (["split", "--split", "0.5,0.5,0", "--out"], ["dedup", "--thin"]):
        for place in (out / "inner", out, tmp_path):
            assert main([words[0], str(out), *words[1:], str(place)]) == 2
            assert "choose another folder" in capsys.readouterr().err
    assert not (out / "inner").exists() and len(keys(out)) == 3


def test_near_identical_reports_and_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vlp_prep.splits.near_duplicates import near_embeddings

    first = "The heart is mildly enlarged. There is a small left pleural effusion and no pneumothorax."
    texts = [first, first.upper() + " 12/3", "Hyperinflated lungs with a nodule in the right upper lobe.", "Clear."]
    out = write(tmp_path / "set", [sample(number, text) for number, text in enumerate(texts)])
    assert main(["dedup", str(out), "--by", "text"]) == 0
    assert "1 groups of near-identical texts hold 1 beyond their first" in capsys.readouterr().out
    assert main(["dedup", str(out), "--by", "embedding"]) == 2
    rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    rows[30] = rows[3] * 2 + 0.001
    pytest.importorskip("faiss")
    assert np.concatenate(list(near_embeddings(rows, 0.99))).tolist() == [[3, 30]]


def test_only_near_duplicates_need_faiss_and_say_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write(tmp_path / "set", [sample(number, f"Report {number}.") for number in range(4)])
    monkeypatch.setitem(sys.modules, "faiss", None)
    for words in (
        ["dedup"],
        ["dedup", "--by", "text"],
        ["dedup", "--by", "embedding"],
        ["split", "--check", "--images"],
    ):
        assert main([words[0], str(out), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert "install vlp[cpu] or vlp[gpu]" in said and said.count("\n") == 1
    assert main(["split", str(out), "--out", str(tmp_path / "halves"), "--split", "0.5,0.5,0"]) == 0
    assert main(["split", str(tmp_path / "halves"), "--check"]) == 0
    groups = tmp_path / "groups.jsonl"
    groups.write_text('{"keys": ["k0", "k1"]}\n')
    assert main(["split", str(out), "--out", str(tmp_path / "third"), "--groups", str(groups)]) == 0


@pytest.mark.skipif(not (SHARED_DATA / "vqa_rad").is_dir(), reason="../shared/data is not here")
def test_no_two_different_real_images_are_called_the_same_and_copies_are(tmp_path: Path) -> None:
    import cv2

    from vlp_prep.splits.near_duplicates import IMAGE_DISTANCE, image_hash, near_hashes

    paths = sorted((SHARED_DATA / "vqa_rad" / "images").glob("*.jpg"))[:150]
    images = [path.read_bytes() for path in paths]
    copies = []
    for data in images[:40]:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        half = cv2.resize(pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        copies.append(
            cv2.imencode(".jpg", np.clip(half * 0.85 + 12, 0, 255), [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()
        )
    hashes = np.stack([image_hash(data) for data in images + copies])
    found = {tuple(pair) for block in near_hashes(hashes, IMAGE_DISTANCE) for pair in block.tolist()}
    assert found == {(number, len(images) + number) for number in range(len(copies))}


def test_scan_counts_what_identifies_and_prints_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Discussed with Dr. Smith on 03/14/2019 at 4:15 pm, phone 617-555-0199. MRN: 1234567."
    out = write(
        tmp_path / "set", [sample(1, text), sample(2, "A 2.5 x 3.0 cm nodule at T4-T5, Kerley B lines, 12-34.")]
    )
    assert main(["scan", str(out), "--out", str(tmp_path / "hits.jsonl")]) == 1
    said = capsys.readouterr().out
    counts = dict(line.split() for line in said.splitlines()[:5])
    assert counts == {"date": "1", "name": "1", "phone": "1", "record_number": "1", "time": "1"}
    assert "Smith" not in said and "1 of 2 samples" in said
    hits = (tmp_path / "hits.jsonl").read_text()
    assert json.loads(hits)["key"] == "k1" and "Smith" not in hits


def test_burned_in_text_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    from vlp_prep.privacy.burned_in_text import has_text

    plain = cv2.GaussianBlur(trees.pixels(5, 512, 512), (0, 0), 3) // 2
    named = plain.copy()
    cv2.putText(named, "DOE JANE 1930", (20, 480), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
    assert has_text(named) and not has_text(plain)
    images = [cv2.imencode(".jpg", one)[1].tobytes() for one in (plain, named)]
    out = write(tmp_path / "set", [sample(number, image=image) for number, image in enumerate(images)])
    assert main(["scan", str(out)]) == 0 and main(["scan", str(out), "--images"]) == 1
    said = capsys.readouterr().out
    assert "text in image    1" in said and "1 of 2 samples" in said


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from vlp_prep.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'pandas', 'pydicom', 'pydantic', 'pyarrow', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "sources"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0 and "usage: vlp-prep" in capsys.readouterr().out


def test_the_sources_are_listed_and_each_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    from vlp_prep.sources.base import sources

    assert main(["sources"]) == 0
    said = capsys.readouterr().out
    for name in sources:
        assert name in said and sources.get(name).name == name and sources.get(name).licence
        with pytest.raises(SystemExit):
            main(["build", name, "--help"])
        capsys.readouterr()
