"""Both ways to train a tokenizer on shards, the command and the start of a run, keep patients out of it."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from tests.modalities.text.test_tokenizer_privacy import FINDINGS, NAMES, NUMBERS, TEXTS
from vlp.data.config import DataConfig
from vlp.data.loader import open_stream
from vlp.export.model_card import describe
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.person_words import folded
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import Tokenizer
from vlp.modalities.text.tokenizers.load import load_tokenizer
from vlp.sample import Report, Sample
from vlp.train.setup import build_or_train_tokenizer
from vlp_prep.cli import main
from vlp_prep.pipeline.shard_writer import ShardWriter


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    folder = tmp_path_factory.mktemp("patients") / "shards"
    with ShardWriter(folder, shard_size=1000, source="made up") as writer:
        for number, text in enumerate(TEXTS):
            report = Report(str(text))
            writer.write(
                Sample(key=f"k{number}", image=file.getvalue(), report=report, patient=text.patient, split="train")
            )
    return folder


def holds_nobody(folder: Path) -> bool:
    content = b"\n".join(path.read_bytes() for path in folder.iterdir()).lower()
    names = [name for name in NAMES if folded(name).encode() in content]
    return not names and not [number for number in NUMBERS if number.encode() in content]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_command(shards: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tokenizer", str(shards), "--out", str(tmp_path / "t"), "--kind", kind, "--vocab-size", "2000"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "trained on the texts of 800 patients" in said and "fewer than 5 patients" in said
    assert holds_nobody(tmp_path / "t")
    tokenizer = load_tokenizer(tmp_path / "t")
    assert int(tokenizer([" ".join(FINDINGS)]).tokens.mask.sum()) <= len(FINDINGS) + 2
    assert main([*words, "--min-patients", "1"]) == 2
    assert "--min-patients must be at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_start_of_a_run_and_the_model_card(shards: Path, tmp_path: Path, kind: str) -> None:
    stream = open_stream(DataConfig(train=str(shards), batch_size=8), 0, "train", 1)
    recipe = SimpleNamespace(tokenizer=TextSpec(kind=cast(Any, kind), vocab_size=2000))
    tokenizer = build_or_train_tokenizer(cast(Any, recipe), tmp_path, stream)
    assert holds_nobody(tmp_path / "tokenizer")
    record = json.loads((tmp_path / "tokenizer" / "vlp_tokenizer.json").read_text())
    assert record["trained"]["patients"] == 800
    assert "fewer than 5 patients" in card_line(tokenizer)


def card_line(tokenizer: Tokenizer) -> str:
    model = SimpleNamespace(dim=8, parameters=list)
    loaded = SimpleNamespace(
        model=model,
        preprocess=ImageProcessor(ImageSpec(size=8, channels=1)),
        tokenizer=tokenizer,
        config={"model": {"image": {"name": "a"}, "text": {"name": "b"}}, "weights_sha256": "x"},
    )
    return next(line for line in describe(cast(Any, loaded)) if line.startswith("texts:"))
