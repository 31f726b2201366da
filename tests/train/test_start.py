"""What vlp-train refuses before its first step, and what a resumed run does not need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.train.conftest import run
from vlp.train.setup import has_one_vector


def test_texts_with_one_vector_are_refused(recipe: Path) -> None:
    text = "{width: 32, heads: 2, layers: 1, context_length: 48, vocab_size: 1000, pool_type: first}"
    tower = f"model.text={{kind: open_clip, config: {{embed_dim: 16, text_cfg: {text}}}}}"
    found = run(recipe, tower, "model.text_head={kind: none}")
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "different texts of the first batch have one vector" in found.stderr and "pool_type" in found.stderr
    left = [path for path in (recipe.parent / "runs").rglob("*") if path.is_file()]
    assert not left, "nothing of a refused run stays"


def test_a_batch_of_one_is_refused(recipe: Path) -> None:
    found = run(recipe, "data.batch_size=1")
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "data.batch_size: these objectives compare the rows" in found.stderr


def test_vectors_that_are_alike() -> None:
    rows = torch.randn(1, 8).expand(4, 8)
    assert has_one_vector(rows) and has_one_vector(rows * (1 + 1e-7)) and has_one_vector(torch.zeros(3, 2))
    assert not has_one_vector(rows + torch.tensor([[0.0], [0.0], [1e-3], [0.0]]))


@pytest.mark.dist
def test_a_run_goes_on_without_what_it_was_made_of(recipe: Path, tmp_path: Path) -> None:
    """The tokenizer's folder, the text tower's folder and its weights are gone; a straight run gives the same weights."""
    import transformers
    from safetensors.torch import load_file

    first = run(recipe, "train.samples=8", "name=first")
    assert first.returncode == 0, first.stderr
    tokenizer, tower = tmp_path / "tokenizer", tmp_path / "bert"
    shutil.copytree(tmp_path / "runs" / "first" / "last" / "tokenizer", tokenizer)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.BertModel(transformers.BertConfig(**size, vocab_size=300)).save_pretrained(tower)
    given = [f"tokenizer={{kind: hf, path: {tokenizer}, length: 48}}", f"model.text={{kind: hf, path: {tower}}}"]
    given += ["optim.schedule=constant", "optim.warmup_samples=0"]
    for name, samples in (("straight", 32), ("halted", 16)):
        begun = run(recipe, *given, f"name={name}", f"train.samples={samples}")
        assert begun.returncode == 0, begun.stderr
    shutil.rmtree(tokenizer)
    shutil.rmtree(tower)
    resumed = run(recipe, *given, "name=halted", "train.samples=32", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    one, two = (load_file(tmp_path / "runs" / name / "last" / "model.safetensors") for name in ("straight", "halted"))
    assert all(torch.equal(one[key], two[key]) for key in one)
