"""A new tokenizer is one file: named in a recipe, trained, saved, and loaded again by those who trust its module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.modalities.text.toy_tokenizer import LetterTokenizer
from tests.models import tiny
from vlp import hub
from vlp.core.config import ConfigError
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.base import FILE, tokenizer_kinds
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer, needs_texts
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig

NAME = LetterTokenizer.kind
MODULE = NAME.partition(":")[0]


def test_a_new_tokenizer_is_one_file(tmp_path: Path) -> None:
    spec = TextSpec(kind=NAME, length=16)
    assert needs_texts(spec)
    tokenizer = build_tokenizer(spec, ["no edema", "nodule"])
    encoded = tokenizer(["no node", "x"])
    assert encoded.tokens.ids[1].tolist() == [1, 0, 0, 0, 0, 0, 0] and encoded.tokens.words[0, -1] == 1
    assert encoded.find(0, 3, 7) == (3, 7)
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["kind"] == NAME
    with pytest.raises(ConfigError, match=rf"code of the module '{MODULE}'.*--trust {MODULE}"):
        load_tokenizer(tmp_path)
    loaded = load_tokenizer(tmp_path, [MODULE])
    assert isinstance(loaded, LetterTokenizer) and loaded.fingerprint == tokenizer.fingerprint


def test_it_travels_with_a_model(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TextSpec(kind=NAME, length=16), ["no edema"])
    spec = ImageSpec(size=32, channels=1)
    model = build_model(ModelConfig(image=tiny.CONV, text=tiny.BERT, dim=24), spec, tokenizer)
    hub.save_pretrained(tmp_path, model, ImageProcessor(spec), tokenizer)
    with pytest.raises(ConfigError, match="is not imported because a model's folder"):
        hub.from_pretrained(tmp_path)
    assert hub.from_pretrained(tmp_path, [MODULE]).tokenizer.fingerprint == tokenizer.fingerprint


def test_a_name_that_there_is_not_is_told_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.kind: unknown tokenizer 'word_piece': did you mean 'wordpiece'"):
        build_tokenizer(TextSpec(kind="word_piece"))
    with pytest.raises(ConfigError, match=r"tokenizer\.kind: cannot import tokenizer 'no_such:Thing'"):
        build_tokenizer(TextSpec(kind="no_such:Thing"))
    assert list(tokenizer_kinds) == ["hf", "open_clip", "sentencepiece", "wordpiece"]
