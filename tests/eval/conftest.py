"""Small sets of synthetic shards and tiny models, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.toys import make_scan
from vlp_eval import results
from vlp_eval.cli import main
from vlp_prep.pipeline.shard_writer import ShardWriter
from vlp_prep.synthetic.generate import generate

Run = Callable[..., int]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 260 synthetic studies as shards, split by patient: train, val, test."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    with ShardWriter(folder, source="synthetic", version="1") as writer:
        for index in range(260):
            sample = generate(index, seed=7, size=128)
            place = int(str(sample.patient).rpartition("-")[2]) % 10
            writer.write(replace(sample, split="train" if place < 3 else "val" if place < 4 else "test"))
    return folder


@pytest.fixture(scope="session")
def tiny(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of a small untrained model of ours."""
    import torch

    from vlp.hub import save_pretrained
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    torch.manual_seed(0)
    spec = ImageSpec(size=64, channels=1)
    texts = [str(generate(index, seed=7, size=32).report) for index in range(30)]
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", vocab_size=300, length=96), texts)
    text = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = ModelConfig(
        dim=16,
        image={"kind": "conv", "width": 8, "blocks": [1, 1, 1]},
        text={"kind": "hf", "config": text},
    )
    model = build_model(config, spec, tokenizer, {"patches", "logit_scale"}, (2.0, None)).eval()
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(folder, model, ImageProcessor(spec), tokenizer)
    return folder


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 synthetic CTs of 24 x 20 x 24 voxels as shards: train and test."""
    folder = tmp_path_factory.mktemp("data") / "scans"
    with ShardWriter(folder, source="synthetic_ct", version="1") as writer:
        for index in range(40):
            writer.write(replace(make_scan(index), split="train" if index < 10 else "test"))
    return folder


@pytest.fixture(scope="session")
def tiny3d(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of a small untrained model of volumes."""
    import torch

    from vlp.hub import save_pretrained
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.modalities.volume.processor import VolumeProcessor
    from vlp.modalities.volume.spec import VolumeSpec
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    torch.manual_seed(0)
    spec = VolumeSpec(spacing=(12.0, 12.0, 12.0), size=(24, 20, 24), windows=("lung", "bone"))
    texts = [
        "There is a small nodule in the right upper lobe. No pleural effusion. Mass. Emphysema. The scan shows."
    ] * 9
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", vocab_size=120, length=96), texts)
    text = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ModelConfig(
        dim=16,
        image={"kind": "patch_conv", "hidden": 16, "width": 8, "local_width": 8},
        text={"kind": "hf", "config": text | {"intermediate_size": 32}},
    )
    model = build_model(config, spec, tokenizer, {"patches", "logit_scale"}, (2.0, None)).eval()
    folder = tmp_path_factory.mktemp("model") / "tiny3d"
    save_pretrained(folder, model, VolumeProcessor(spec), tokenizer)
    return folder


@pytest.fixture
def run() -> Run:
    """Return `vlp-eval` as a function of its words."""
    return lambda *words: main([str(one) for one in words])


@pytest.fixture
def planted(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `--model tests.eval.factories:NAME` find its embedders, which know the answers of the shards."""
    monkeypatch.setenv("VLP_TEST_SHARDS", str(shards))


def read(out: Path) -> dict[str, Any]:
    """Return the tasks of a run by the last part of their names."""
    return {one["id"].partition(".")[2]: one for one in results.read(out)["tasks"]}


def score(run: Run, shards: Path, out: Path, model: object, *more: object, suite: str = "smoke") -> int:
    """Run a suite on the shards with a model and return the exit code."""
    words = ["--model", model, "--suite", suite, "--data", shards, "--out", out, "--resamples", 200, "--no-html"]
    return run("run", *words, *more)
