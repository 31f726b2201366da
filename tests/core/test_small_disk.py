"""A disk that fills up under each command: exit code 1 in words, no half of a file, and a rerun with space succeeds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlp.data.shards.remote.cache import Cache
from vlp.export.cli import main as export
from vlp.hub import save_pretrained
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.modalities.text.spec import TextSpec
from vlp.modalities.text.tokenizers.load import build_tokenizer
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp_eval.cli import main as evaluate
from vlp_prep.cli import main as prep
from vlp_prep.pipeline.rejected import add_private, sort_private
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

MAINS: dict[str, Callable[[list[str]], int]] = {"vlp-prep": prep, "vlp-eval": evaluate, "vlp-export": export}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A set of two equal texts, with a card, and a tiny model."""
    folder = tmp_path_factory.mktemp("given")
    with ShardWriter(folder / "set", source="synthetic", version="1") as writer:
        for index in range(40):
            sample = generate(index, seed=7, size=48)
            twin = replace(sample, key=f"{sample.key}b", split="test")
            writer.write(replace(sample, split="test"))
            writer.write(twin)
    (folder / "set" / "README.md").write_text("# A card\n" + "x" * 50_000)
    torch.manual_seed(0)
    spec = ImageSpec(size=32, channels=1)
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", vocab_size=200, length=48), ["no effusion", "edema"] * 20)
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"kind": "hf", "pooling": "mean", "config": {"model_type": "bert", **bert}}
    config = ModelConfig(dim=16, image={"kind": "conv", "width": 8, "blocks": [1, 1, 1]}, text=text)
    model = build_model(config, spec, tokenizer, {"patches", "logit_scale"}, (2.0, None)).eval()
    save_pretrained(folder / "model", model, ImageProcessor(spec), tokenizer)
    tasks = [{"id": "retrieval", "family": "retrieval", "size": 10}]
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": tasks}))
    return {name.upper().partition(".")[0]: str(folder / name) for name in ("set", "model", "suite.yaml")}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes, to a page."""
    (disk / "filler").write_bytes(bytes(free(disk) - left // 4096 * 4096))


SCORED = "--model MODEL --suite SUITE --data SET"
WHOLE = (".png", ".html", ".model", ".tar", ".jsonl")
COMMANDS = [
    "vlp-prep tokenizer SET --out OUT/tokenizer --split test --kind sentencepiece --vocab-size 120",
    "vlp-prep split SET --out OUT/split",
    "vlp-prep dedup SET --by text --out OUT/groups.jsonl",
    "vlp-prep dedup SET --by text --thin OUT/thin",
    "vlp-prep preview SET --n 4 --out OUT/sheet.png",
    "vlp-prep preview SET --n 4 --out OUT/sheet.html",
    "vlp-prep key OUT/key",
    f"vlp-eval embed {SCORED} --out OUT/embeddings",
    f"vlp-eval run {SCORED} --out OUT/results --resamples 10",
    pytest.param("vlp-export MODEL --to OUT/export", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing_that_is_half(
    words: str, given: dict[str, str], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = words.split()
    for old, new in {**given, "OUT": str(disk / "0")}.items():
        rest = [word.replace(old, new) if word.startswith(old) else word for word in rest]
    rest = [*rest, "--resume"] if "results" in words else rest

    def run(place: int) -> int:
        (disk / str(place)).mkdir(exist_ok=True)
        capsys.readouterr()
        return MAINS[name]([word.replace(str(disk / "0"), str(disk / str(place))) for word in rest])

    before = free(disk)
    assert run(0) == 0, capsys.readouterr().err
    size = before - free(disk)
    sizes = {path.name: path.stat().st_size for path in (disk / "0").rglob("*") if path.is_file()}
    whole = {path.relative_to(disk / "0") for path in (disk / "0").rglob("*")}
    for place, left in enumerate((size // 3, size - 8192), start=1):
        (disk / str(place)).mkdir()
        fill(disk, max(left, 0))
        code, said = run(place), capsys.readouterr().err
        assert code == 1 and "Traceback" not in said and "no space is left" in said.splitlines()[-1], (code, said)
        files = [path for path in (disk / str(place)).rglob("*") if path.is_file()]
        assert not [path for path in files if "partial" in path.name], files
        halves = [path for path in files if path.suffix in WHOLE and path.stat().st_size != sizes[path.name]]
        assert not halves, halves
        assert not (disk / str(place) / "key").exists()
        (disk / "filler").unlink()
        assert run(place) == 0, capsys.readouterr().err
        assert {path.relative_to(disk / str(place)) for path in (disk / str(place)).rglob("*")} == whole


def test_no_half_of_a_line_stays_among_the_private_rejects(disk: Path) -> None:
    path = disk / "rejected-private-set.jsonl"
    lines = [{"index": index, "key": "k" * 900} for index in range(20)]
    fill(disk, 12_288)
    with pytest.raises(OSError, match="No space left"):
        add_private(path, lines)
    (disk / "filler").unlink()
    add_private(path, lines)
    sort_private(path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_a_full_or_read_only_cache_of_shards_is_said_at_once(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(url: str, file: object, *_: object) -> None:
        file.write(bytes(1 << 20))  # type: ignore[attr-defined]
        file.flush()  # type: ignore[attr-defined]

    monkeypatch.setattr("vlp.data.shards.remote.cache.copy", copy)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it tries again"))
    cache = Cache(disk / "cache", hosts=())
    fill(disk, 40_960)
    with pytest.raises(OSError, match=r"cannot fetch .*No space left"):
        cache.fetch("https://example.org/a.tar", 1 << 20, "0" * 64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        cache.fetch("https://example.org/a.tar", 1 << 20, "0" * 64)
