"""Folders of models and tokenizers of others: what fills memory, waits or asks is named at once, and nothing of it runs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vlp
from tests.models.tiny import make, wordpieces
from vlp import hub
from vlp.core.config import ConfigError
from vlp.core.trust import never_asking
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer, load_tokenizer
from vlp.models.weights.files import read_weights

HUGE = 300 << 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = make(needs=frozenset({"logit_scale"}))
    hub.save_pretrained(folder, model, ImageProcessor(ImageSpec(size=32, channels=1)), tokenizer)
    return folder


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


def loads_not(load: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("plant", [fifo, device, huge])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "preprocess.json",
        "model.safetensors",
        "tokenizer/vlp_tokenizer.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/more.json",
    ],
)
def test_a_file_of_a_model_that_never_ends(
    name: str, plant: Callable[[Path], None], saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    plant(folder / name)
    loads_not(lambda: vlp.from_pretrained(folder), Path(name).name.replace(".", r"\."))


@pytest.mark.parametrize("plant", [fifo, device, huge])
def test_files_that_libraries_read(plant: Callable[[Path], None], tmp_path: Path) -> None:
    from vlp.models.towers.hf import HfConfig, read_config
    from vlp_eval.maps.masks import Sam
    from vlp_eval.models.load import load

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "open_clip_config.json"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        for other in ("config.json", "open_clip_config.json"):
            (folder / other).write_text('{"model_type": "bert"}')
        plant(folder / name)
        path = str(folder)
        options = HfConfig(path=path)
        for match, call in {
            "tokenizer.path": lambda path=path: build_tokenizer(TextSpec(kind="hf", path=path)),
            "model.text": lambda options=options: read_config(options, "text_config", "model.text"),
            "hf:": lambda path=path: load(f"hf:{path}", "cpu"),
            "local-dir": lambda path=path: load(f"open_clip:local-dir:{path}", "cpu"),
            "SAM": lambda path=path: Sam.load(path),
        }.items():
            loads_not(call, match)  # type: ignore[arg-type]


@pytest.mark.parametrize("plant", [fifo, device, huge])
@pytest.mark.parametrize("kind", ["open_clip", "sentencepiece"])
def test_the_file_of_a_tokenizer(kind: Any, plant: Callable[[Path], None], tmp_path: Path) -> None:
    plant(tmp_path / "file")
    loads_not(lambda: build_tokenizer(TextSpec(kind=kind, path=str(tmp_path / "file"))), "tokenizer")


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(bytes(1 << 27), mtime=0),
        b"no gzip",
        gzip.compress(b"\xff" * 99, mtime=0),
        gzip.compress(b"a" * 999, mtime=0)[:-9],
        b"",
        gzip.compress(b"head\nit is no merge\n", mtime=0),
    ],
    ids=["bomb", "plain", "no UTF-8", "torn", "empty", "words"],
)
def test_merges_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "merges.gz").write_bytes(content)
    loads_not(lambda: build_tokenizer(TextSpec(kind="open_clip", path=str(tmp_path / "merges.gz"))), "merges")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vlp_tokenizer.json", {"length": 1 << 60}),
        ("vlp_tokenizer.json", {"length": "long"}),
        ("vlp_tokenizer.json", {"length": -1}),
        ("vlp_tokenizer.json", {"overflow": 3}),
        ("vlp_tokenizer.json", {"files": 3}),
        ("vlp_tokenizer.json", {"files": ["../../config.json"]}),
        ("vlp_tokenizer.json", {"trained": {"patients": "Jane Doe"}}),
        ("vlp_tokenizer.json", {"fingerprint": None}),
        ("vlp_tokenizer.json", {"kind": "open_clip"}),
        ("vlp_tokenizer.json", {"kind": "pickle"}),
        ("tokenizer_config.json", {"pad_token": 5}),
        ("tokenizer_config.json", {"pad_token": {"text": "x"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil/code--t.T", None]}}),
    ],
    ids=str,
)
def test_odd_values_of_a_tokenizer(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    wordpieces().save(tmp_path)
    tree = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**tree, **change}))
    loads_not(lambda: load_tokenizer(tmp_path), "token")


@pytest.mark.parametrize("content", ["[]", "5", "null", "[" * 100_000, "\x00", '"\\ud800"'])
@pytest.mark.parametrize("name", ["vlp_tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_of_another_type(name: str, content: str, tmp_path: Path) -> None:
    wordpieces().save(tmp_path)
    (tmp_path / name).write_text(content)
    loads_not(lambda: load_tokenizer(tmp_path), "token")


@pytest.mark.parametrize(
    "shards", [["model.safetensors.index.json"], ["../x.safetensors"], [5], [{}], "x", ["/etc/passwd"], [None, "a"]]
)
def test_an_index_of_weights_that_leads_elsewhere(shards: Any, tmp_path: Path) -> None:
    names = dict(enumerate(shards)) if isinstance(shards, list) else shards
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    loads_not(lambda: read_weights(tmp_path), "index")


def test_code_of_a_repository_is_refused_and_never_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    from vlp_eval.maps.masks import Sam

    ran = tmp_path / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').write('x')\nclass T: pass\n")
    setup = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["code.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(setup))
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "code.T"}}))
    with never_asking(), pytest.raises(ValueError, match=r"trust_remote_code|custom code"):
        AutoTokenizer.from_pretrained(folder)
    loads_not(lambda: build_tokenizer(TextSpec(kind="hf", path=str(folder))), "tokenizer")
    loads_not(lambda: Sam.load(str(folder)), "auto_map")
    assert not ran.exists()
