"""`vlp-prep dedup --by embedding`: a model is really trained (a few steps), its run folder is given, faiss finds the copies."""

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import warm
from vlp.data.shards.manifest import Manifest
from vlp.data.shards.shard_set import ShardSet
from vlp.sample import Sample
from vlp_prep.cli import main
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

RECIPE = """
seed: 3
image: {size: 48, channels: 1}
tokenizer: {kind: wordpiece, vocab_size: 200, length: 48}
model:
  dim: 16
  image: {kind: conv, width: 8, blocks: [1, 1, 1]}
  text:
    kind: hf
    config: {model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}
objectives: [{kind: clip}]
train: {samples: 48, checkpoint_every_steps: 6}
"""
N, COPIES = 40, (3, 17, 29)


def copy_of(sample: Sample, number: int) -> Sample:
    """The same picture in other bytes (PNG), of another patient."""
    buffer = io.BytesIO()
    image = sample.image if isinstance(sample.image, bytes) else b""
    pixels = Image.open(io.BytesIO(image)) if image else Image.fromarray(np.asarray(sample.image))
    pixels.save(buffer, "PNG", compress_level=1)
    return replace(sample, key=f"copy{number}", patient=f"other{number}", image=buffer.getvalue(), split="train")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding") / "shards"
    made = [replace(generate(index, 5, 48), key=f"k{index}", split="train") for index in range(N)]
    with ShardWriter(folder, shard_size=16, source="synthetic") as writer:
        for sample in [*made, *(copy_of(made[number], number) for number in COPIES)]:
            writer.write(sample)
    return folder


@pytest.fixture(scope="module")
def run(shards: Path) -> Path:
    """Train for six steps with the command itself; return the run folder."""
    recipe = shards.parent / "tiny.yaml"
    recipe.write_text(
        f"{RECIPE}data: {{train: {shards}, batch_size: 8, workers: 0}}\nname: tiny\nout: {shards.parent}\n"
    )
    command = [sys.executable, "-m", "vlp.train", str(recipe)]
    done = warm.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return shards.parent / "tiny"


def test_copies_are_found_by_the_embeddings_of_a_trained_checkpoint(
    shards: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    from vlp_prep.splits.near_duplicates import embed

    found = ShardSet(Manifest.read(shards))
    rows = embed(run, (found.sample(index).image for index in range(len(found))))  # type: ignore[misc]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    keys = [found.key(index) for index in range(len(found))]
    for least in (0.999999, float(np.quantile(cosine, 0.99))):
        out = tmp_path / "groups.jsonl"
        words = ["--by", "embedding", "--model", str(run), "--similarity", str(least), "--out", str(out)]
        assert main(["dedup", str(shards), *words]) == 0
        groups = [set(json.loads(line)["keys"]) for line in out.read_text().splitlines()]
        near = cosine >= least - 1e-6
        for _ in range(len(near)):  # connected components, by repeated multiplication
            near = (near @ near) > 0
        wanted = {frozenset(keys[other] for other in np.flatnonzero(row)) for row in near}
        assert {frozenset(one) for one in groups} == {one for one in wanted if len(one) > 1}
        assert f"{len(groups)} groups of near-identical embeddings" in capsys.readouterr().out
        if least > 0.99999:
            assert {frozenset(one) for one in groups} == {frozenset({f"k{n}", f"copy{n}"}) for n in COPIES}
    words = ["--by", "embedding", "--model", str(run), "--similarity", "0.999999", "--thin", str(tmp_path / "thin")]
    assert main(["dedup", str(shards), *words]) == 0
    assert len(Manifest.read(tmp_path / "thin")) == N


def test_a_folder_without_a_model_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["dedup", str(shards), "--by", "embedding", "--model", str(folder)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_tower_of_ones_own_is_named_and_taken_where_it_is_trusted(
    shards: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    folder = shutil.copytree(run / "last", tmp_path / "model")
    (tmp_path / "own_towers.py").write_text("from vlp.models.towers.conv import ConvTower as Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = json.loads((folder / "config.json").read_text())
    tree["model"]["image"]["kind"] = "own_towers:Mine"
    (folder / "config.json").write_text(json.dumps(tree))
    words = ["dedup", str(shards), "--by", "embedding", "--model", str(folder)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "'own_towers'" in said and "--trust own_towers" in said and said.count("\n") == 1
    assert "own_towers" not in sys.modules
    assert main([*words, "--trust", "own_towers"]) == 0
    sys.modules.pop("own_towers")
