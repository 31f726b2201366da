"""One checkpoint, three formats: ours, open_clip and transformers score the same to 1e-5.

Maps differ by the rounding of float32 between libraries, so a pixel that lies at the threshold of its mask can fall to
either side: measured, one pixel of one phrase's map (Dice by 2 / (|A| + |B|)). So overlaps are compared phrase by phrase.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.eval.conftest import Run
from vlp_eval import results
from vlp_prep.synthetic.generate import generate

SIDE = 128
OVERLAP = re.compile("dice|iou")
FINDINGS = ["consolidation", "nodule", "effusion", "cardiomegaly"]
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what `--model` takes for the same weights in each format: a ResNet and a BERT with linear heads."""
    from vlp.core.config import validate
    from vlp.export import exporters
    from vlp.hub import from_pretrained, save_pretrained
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig

    texts = [str(generate(index, seed=7, size=32).report) for index in range(60)]
    tokenizer = build_tokenizer(TextSpec(vocab_size=400, length=160), texts)
    spec = ImageSpec(size=SIDE, channels=1, resize="crop", interpolation="bicubic")
    tree = {
        "dim": 24,
        "image": {"kind": "timm", "name": "resnet10t"},
        "text": {"kind": "hf", "config": {**BERT, "intermediate_size": 64}},
        "image_head": {"kind": "linear"},
        "text_head": {"kind": "linear"},
    }
    torch.manual_seed(0)
    model = build_model(validate(ModelConfig, tree), spec, tokenizer, {"logit_scale"}, (2.0, None)).eval()
    for name, value in model.state_dict().items():  # an untrained tower says nearly the same of every image
        if value.is_floating_point():
            noise = torch.randn_like(value) * 0.05
            value.add_(noise.abs() if name.endswith("running_var") else noise)
    folder = tmp_path_factory.mktemp("formats")
    save_pretrained(folder / "ours", model, ImageProcessor(spec), tokenizer)
    loaded = from_pretrained(folder / "ours")
    for name in ("open_clip", "transformers"):
        (folder / name).mkdir()
        exporters.get(name)(name).write(loaded, folder / name, False)
    return {
        "ours": str(folder / "ours"),
        "open_clip": f"open_clip:local-dir:{folder / 'open_clip'}",
        "transformers": f"hf:{folder / 'transformers'}",
    }


def test_one_checkpoint_scores_the_same_through_three_libraries(
    formats: dict[str, str], shards: Path, tmp_path: Path, run: Run
) -> None:
    """Images are stored at the input's size; maps are Grad-CAM, since open_clip and transformers know no patch heads."""
    tasks = [
        {"id": "retrieval", "family": "retrieval", "positives": "text", "pools": [50]},
        {"id": "pairs", "family": "classification", "classes": FINDINGS, "prompts": ["synthetic", "synthetic-seen"]},
        {
            "id": "softmax",
            "family": "classification",
            "classes": FINDINGS,
            "kind": "multiclass",
            "prompts": ["synthetic"],
            "scoring": {"rule": "softmax", "pooling": "mean-raw"},
        },
        {"id": "search", "family": "class_retrieval", "classes": FINDINGS},
        {"id": "wrong", "family": "mismatch"},
        {"id": "maps", "family": "grounding", "source": "gradcam", "limit": 8, "prior_split": None},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": "1", "about": "three ways", "tasks": tasks}))
    found, rows = {}, {}
    for name, model in formats.items():
        words = ["--model", model, "--suite", tmp_path / "suite.yaml", "--data", shards, "--out", tmp_path / name]
        assert run("run", *words, "--resamples", 50, "--no-html", "--device", "cpu") == 0
        tree = results.read(tmp_path / name)
        rows[name] = results.read_samples(tmp_path / name, tree["tasks"][-1])
        assert all(one["status"] == "ok" for one in tree["tasks"])
        found[name] = {
            (task["id"], metric): one["value"] for task in tree["tasks"] for metric, one in task["metrics"].items()
        }
        found[name] |= {
            (task["id"], label, metric): one["value"]
            for task in tree["tasks"]
            for label, values in task["per_class"].items()
            for metric, one in values.items()
            if isinstance(one, dict) and "value" in one
        }
    ours = found.pop("ours")
    assert len(ours) > 120 and len({value for value in ours.values() if value is not None}) > 60
    for name, theirs in found.items():
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if not OVERLAP.search(key[-1]):
                assert theirs[key] == (value if value is None else pytest.approx(value, abs=1e-5)), (name, key)
        for column in (column for column in rows["ours"][0] if OVERLAP.search(column)):
            pairs = [(old, row) for old, row in zip(rows["ours"], rows[name], strict=True) if old[column] is not None]
            moved = [(old, row) for old, row in pairs if abs(old[column] - row[column]) > 1e-5]
            assert len(moved) <= 1, (name, column)
            for old, row in moved:  # by one pixel, against boxes of so many
                assert abs(old[column] - row[column]) <= 2 / (old["area"] * SIDE**2), (name, column)
