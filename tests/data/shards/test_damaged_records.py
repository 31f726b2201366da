"""Records of another type, with NaN, halves of characters or no end: a counted reject with key and field everywhere."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlp.data.loader import DataConfig, Loader
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.sample_io import SampleError, check_sample, decode_sample
from vlp.data.shards.shard_set import ShardSet
from vlp.data.shards.tar_index import FORMAT
from vlp.data.shards.verify import index_folder
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp_prep.cli import main

SECRET = "Quiet lungs of Mr Zebedee."
SPLIT_HALF = "\ud800"

OURS: dict[str, tuple[dict[str, Any], str]] = {
    "key_number": ({"key": 7}, "key"),
    "key_none": ({"key": None}, "key"),
    "key_empty": ({"key": ""}, "key"),
    "key_escape": ({"key": "\x1b]0;x\x07"}, "key"),
    "key_long": ({"key": "k" * 5000}, "key"),
    "report_number": ({"report": 5}, "report"),
    "report_list": ({"report": [SECRET]}, "report"),
    "report_without_text": ({"report": {"said": SECRET}}, "report.text"),
    "report_text_number": ({"report": {"text": 5}}, "report.text"),
    "report_half_character": ({"report": {"text": SECRET + SPLIT_HALF}}, "report.text"),
    "sentences_beyond": ({"report": {"text": "ab", "sentences": [[0, 3]]}}, "report.sentences[0]"),
    "sentences_negative": ({"report": {"text": "ab", "sentences": [[-1, 2]]}}, "report.sentences[0]"),
    "sentences_text": ({"report": {"text": "ab", "sentences": SECRET}}, "sentences"),
    "sentences_one": ({"report": {"text": "ab", "sentences": [[0]]}}, "report.sentences[0]"),
    "sections_list": ({"report": {"text": "ab", "sections": [[0, 1]]}}, "sections"),
    "sections_beyond": ({"report": {"text": "ab", "sections": {"findings": [0, 9]}}}, "report.sections.findings"),
    "sections_words": ({"report": {"text": "ab", "sections": {"findings": ["a", "b"]}}}, "report.sections.findings"),
    "captions_text": ({"captions": SECRET}, "captions"),
    "captions_number": ({"captions": [1]}, "captions[0]"),
    "captions_half_character": ({"captions": ["a", SPLIT_HALF]}, "captions[1]"),
    "labels_list": ({"labels": ["Edema"]}, "labels"),
    "labels_word": ({"labels": {"Edema": SECRET}}, "labels.Edema"),
    "labels_large": ({"labels": {"Edema": 300}}, "labels.Edema"),
    "labels_soft": ({"labels": {"Edema": 0.5}}, "labels.Edema"),
    "labels_true": ({"labels": {"Edema": True}}, "labels.Edema"),
    "labels_nan": ({"labels": {"Edema": float("nan")}}, "labels.Edema"),
    "concepts_number": ({"concepts": 5}, "concepts"),
    "concepts_words": ({"concepts": [SECRET]}, "concepts"),
    "concepts_more": ({"concepts": [{"text": "a", "code": "b", "start": 0, "end": 1, "why": 1}]}, "concepts"),
    "concepts_start": ({"concepts": [{"text": "a", "code": "b", "start": "0", "end": 1}]}, "concepts[0].start"),
    "concepts_huge": ({"concepts": [{"text": "a", "code": "b", "start": 0, "end": 2**70}]}, "concepts[0].start, end"),
    "concepts_code": ({"concepts": [{"text": "a", "code": 5, "start": 0, "end": 0}]}, "concepts[0].code"),
    "concepts_assertion": (
        {"concepts": [{"text": "a", "code": "b", "start": 0, "end": 0, "assertion": ["present"]}]},
        "concepts[0].assertion",
    ),
    "concepts_maybe": (
        {"concepts": [{"text": "a", "code": "b", "start": 0, "end": 0, "assertion": "maybe"}]},
        "concepts[0].assertion",
    ),
    "boxes_mapping": ({"boxes": {"xyxy": [0, 0, 1, 1]}}, "boxes"),
    "boxes_nan": ({"boxes": [{"phrase": "a", "xyxy": [float("nan"), 0, 1, 1]}]}, "boxes[0].xyxy"),
    "boxes_infinite": ({"boxes": [{"phrase": "a", "xyxy": [0, 0, 1, float("inf")]}]}, "boxes[0].xyxy"),
    "boxes_huge": ({"boxes": [{"phrase": "a", "xyxy": [0, 0, 1, 10**400]}]}, "boxes[0].xyxy"),
    "boxes_three": ({"boxes": [{"phrase": "a", "xyxy": [0, 0, 1]}]}, "boxes[0].xyxy"),
    "boxes_words": ({"boxes": [{"phrase": "a", "xyxy": ["0", "0", "1", "1"]}]}, "boxes[0].xyxy"),
    "boxes_number": ({"boxes": [{"phrase": "a", "xyxy": 5}]}, "boxes"),
    "boxes_phrase": ({"boxes": [{"phrase": None, "xyxy": [0, 0, 1, 1]}]}, "boxes[0].phrase"),
    "study_number": ({"study": 5}, "study"),
    "patient_list": ({"patient": [SECRET]}, "patient"),
    "view_lines": ({"view": "a\nb"}, "view"),
    "split_climbs": ({"split": "../../x"}, "split"),
    "source_mapping": ({"source": {}}, "source"),
    "groups_number": ({"groups": {"age": 5}}, "groups"),
    "groups_list": ({"groups": [5]}, "groups"),
    "steps_text": ({"steps": "cut"}, "steps"),
}
RAW: dict[str, tuple[bytes, str]] = {
    "deep": (b'{"a": ' + b"[" * 100_000, "json"),
    "cut": (b'{"report": "' + SECRET.encode(), "json"),
    "latin_1": (b'{"report": "Opacit\xe9"}', "json"),
    "utf_16": ('{"report": "x"}'.encode("utf-16"), "json"),
    "digits": (b'{"labels": {"a": ' + b"9" * 5000 + b"}}", "json"),
    "empty": (b"", "json"),
}
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "boxes_nan": OURS["boxes_nan"],
    "boxes_words": OURS["boxes_words"],
    "concepts_number": OURS["concepts_number"],
    "concepts_start": OURS["concepts_start"],
    "report_half_character": ({"report": SECRET + SPLIT_HALF}, "report.text"),
    "caption_half_character": ({"caption": SPLIT_HALF}, "captions"),
}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 5)).save(buffer, "PNG")
    return buffer.getvalue()


def record(name: str) -> bytes:
    base = {"key": "bad", "format": FORMAT, "report": {"text": SECRET}}
    return json.dumps({**base, **OURS[name][0]}).encode()


@pytest.mark.parametrize("name", OURS)
def test_a_value_of_a_record_that_is_wrong_is_named(name: str) -> None:
    refused(record(name), OURS[name][1])


@pytest.mark.parametrize("name", RAW)
def test_json_that_is_none_is_named(name: str) -> None:
    refused(RAW[name][0], RAW[name][1])


@pytest.mark.parametrize("name", FOREIGN)
def test_a_value_of_a_foreign_record_that_is_wrong_is_named(name: str) -> None:
    refused(json.dumps(FOREIGN[name][0]).encode(), FOREIGN[name][1])


def refused(data: bytes, field: str) -> None:
    with pytest.raises(SampleError) as caught:
        decode_sample("bad", {"png": picture(), "json": data}, "x.tar")
    said = str(caught.value)
    assert "x.tar: the record of key 'bad'" in said and f": {field}" in said.replace("the record", "")
    assert "Zebedee" not in said and said.isprintable() and len(said) < 300


def test_a_number_that_is_none_where_it_does_not_matter_costs_no_sample() -> None:
    data = b'{"caption": "Clear.", "age": NaN, "other": "\\ud800"}'
    assert decode_sample("k", {"png": picture(), "json": data}, "x.tar").captions == ("Clear.",)


def spoil(folder: Path, bad: dict[int, bytes]) -> Path:
    """Replace the records of some samples of the first shard, and make the manifest agree: a set that was made so."""
    manifest = Manifest.read(folder)
    shard = folder / manifest.shards[0].shard
    content = bytearray(shard.read_bytes())
    for row, data in bad.items():
        offset, size = manifest.columns(0).members(row)["json"]
        assert len(data) <= size, (len(data), size)
        content[offset : offset + size] = data.ljust(size)
    shard.write_bytes(content)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    lines[0] |= {"sha256": hashlib.sha256(content).hexdigest(), "crc32": [0] * len(lines[0]["crc32"])}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def short(key: str, **values: Any) -> bytes:
    return json.dumps({"key": key, "format": FORMAT, **values}, separators=(",", ":")).encode()


BAD = {
    1: short("s000001", boxes=[{"phrase": "a", "xyxy": [float("nan"), 0, 1, 1]}]),
    3: short("s000003", report={"text": "\ud800"}),
    4: b'{"a":' + b"[" * 300,
    6: short("s000006", labels={"edema": "yes"}),
}
FIELDS = {"s000001": "boxes[0].xyxy", "s000003": "report.text", "s000004": "json", "s000006": "labels.edema"}


@pytest.fixture
def spoiled(new_set: Callable[..., Path]) -> Path:
    return spoil(new_set(n=14, val=4), BAD)


COMMANDS = {
    "stats": (["stats"], 2),
    "preview": (["preview", "--n", "18", "--out", "OUT.html"], 2),
    "split": (["split", "--out", "OUT"], 2),
    "split_check": (["split", "--check", "--images"], 2),
    "dedup_image": (["dedup", "--thin", "OUT"], 2),
    "dedup_text": (["dedup", "--by", "text", "--thin", "OUT"], 2),
    "scan": (["scan", "--images"], 2),
    "verify": (["verify"], 1),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_goes_on_and_names_key_and_field(
    name: str, spoiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code = COMMANDS[name]
    words = [words[0], str(spoiled), *(word.replace("OUT", str(tmp_path / "out")) for word in words[1:])]
    assert main(words) == code
    out, err = capsys.readouterr()
    lines = (out + err).splitlines()
    for key, field in FIELDS.items():
        assert any(repr(key) in line and field in line for line in lines), key
    assert "Traceback" not in err
    if name == "verify":
        return
    assert "4 of 18 samples rejected" in err and "--max-rejected 0.01" in err
    if ("--out" in words or "--thin" in words) and name != "preview":
        kept = ShardSet(Manifest.read(tmp_path / "out"))
        assert not {kept.key(index) for index in range(len(kept))} & FIELDS.keys()
    words = [*words[:2], "--max-rejected", "0.5", *(f"{w}2" if str(tmp_path / "out") == w else w for w in words[2:])]
    assert main(words) in ((0, 1) if name == "scan" else (0,))
    assert "4 of 18 samples rejected" in capsys.readouterr().err


def test_index_leaves_them_out_and_names_them(spoiled: Path, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    assert len(index_folder(spoiled, progress=said.append)) == 14
    assert "3 samples, 4 left out" in said[0]
    for key, field in FIELDS.items():
        assert any(repr(key) in line and field in line for line in caplog.text.splitlines())


def test_training_goes_on_up_to_its_limit(
    spoiled: Path, preprocess: ImageProcessor, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(train=str(spoiled), batch_size=7, workers=0, max_rejected=0.9)
    loader = Loader(config, preprocess, tokenizer)
    batches = iter(loader)
    keys = {key for _ in range(4) for key in next(batches).keys}
    assert not keys & FIELDS.keys() and len(keys) == 10
    for key, field in FIELDS.items():
        assert field in loader.rejected[key]


def test_scoring_leaves_them_out_where_that_is_allowed(spoiled: Path) -> None:
    from vlp_eval.data.spec import DataError, DataSpec
    from vlp_eval.runner import Datasets

    spec = DataSpec(split="train")
    data = Datasets(spoiled, None, allow_missing=True).get(spec)
    assert len(data) == 10 and {key: FIELDS[key] in why for key, why in data.rejected.items()} == dict.fromkeys(
        FIELDS, True
    )
    with pytest.raises(DataError, match=r"4 damaged records .*--allow-missing.*key 's000001'.*boxes\[0\]\.xyxy"):
        Datasets(spoiled, None).get(spec)


def test_what_we_write_passes_the_check(toy: Path) -> None:
    shards = ShardSet(Manifest.read(toy))
    for index in range(len(shards)):
        check_sample(shards.sample(index))


def test_a_key_of_a_tar_that_is_no_text_and_a_member_too_large_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tarfile

    monkeypatch.setattr("vlp.data.shards.foreign.index.MAX_MEMBER", 5000)
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in (
            ("good.png", picture()),
            ("b\udce9d.png", picture()),
            ("e\x1b[2J.png", picture()),
            ("big.png", picture() + bytes(6000)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    manifest = index_folder(tmp_path)
    assert [manifest.key(index) for index in range(len(manifest))] == ["good"]
    assert "\x1b" not in caplog.text and "5000 are allowed" in caplog.text
