"""ConceptCLIP's mix of a global and a local branch, against its formula computed from the model's own training outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.eval.conftest import Run, score
from vlp.batch import Batch
from vlp_eval import results

CLASSES = ["consolidation", "nodule", "effusion"]
NAMES = {"consolidation": "airspace opacity", "nodule": "lung nodule", "effusion": "pleural fluid"}
TEMPLATES = ("There is {} on this film.", "{} present.")
ALPHA, TOP, GLOBAL, LOCAL = 0.5, 5, 0.1, 0.05


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(rows: Any) -> Any:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def model_with(needs: set[str], folder: Path) -> Path:
    """Write an untrained model that gives what objectives need of texts: tokens (ConceptCLIP) or words (GLoRIA)."""
    import torch

    from vlp.hub import save_pretrained
    from vlp.modalities.image.processor import ImageProcessor
    from vlp.modalities.image.spec import ImageSpec
    from vlp.modalities.text.spec import TextSpec
    from vlp.modalities.text.tokenizers.load import build_tokenizer
    from vlp.models.build import build_model
    from vlp.models.dual_encoder import ModelConfig
    from vlp_prep.synthetic.generate import generate

    torch.manual_seed(3)
    texts = [str(generate(index, seed=7, size=32).report) for index in range(30)]
    tokenizer = build_tokenizer(TextSpec(kind="wordpiece", vocab_size=200, length=64), texts)
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1}
    bert |= {"num_attention_heads": 2, "intermediate_size": 32}
    image = {"kind": "conv", "width": 8, "blocks": [1, 1, 1]}
    config = ModelConfig(dim=16, image=image, text={"kind": "hf", "config": bert})
    spec = ImageSpec(size=64, channels=1)
    model = build_model(config, spec, tokenizer, {"patches", *needs}, (2.0, None)).eval()
    save_pretrained(folder, model, ImageProcessor(spec), tokenizer)
    return folder


def suite_of(folder: Path, **scoring: Any) -> Path:
    prompts = {
        "version": "1",
        "about": "x",
        "templates": {"pos": TEMPLATES},
        "names": {k: [v] for k, v in NAMES.items()},
    }
    (folder / "mine.yaml").write_text(json.dumps(prompts))
    task = {"id": "mine.concepts", "family": "classification", "kind": "multiclass", "classes": CLASSES}
    task |= {"prompts": ["mine.yaml"], "scoring": {"rule": "softmax", "local": ALPHA, "top_patches": TOP, **scoring}}
    (folder / "suite.yaml").write_text(json.dumps({"version": "1", "about": "x", "tasks": [task]}))
    return folder / "suite.yaml"


def expected(folder: Path, shards: Path, keys: list[str], of: str) -> Any:
    """Return p = a softmax(s_l mean of the top cosines of patch and concept) + (1 - a) softmax(s_g v . w), [n, C]."""
    import torch

    from vlp.data.shards.manifest import Manifest
    from vlp.data.shards.shard_set import ShardSet
    from vlp.hub import from_pretrained

    loaded = from_pretrained(folder)
    source = ShardSet(Manifest.read(shards))
    images = {one.key: one.image for one in (source.sample(index) for index in range(len(source)))}
    preprocess = loaded.preprocess
    pixels = preprocess.batch(preprocess.read(images[key]) for key in keys)
    texts = [template.format(NAMES[name]) for name in CLASSES for template in TEMPLATES]
    encoded = loaded.tokenizer(texts)
    batch = Batch(image=pixels[: len(texts)], text=encoded.tokens, group=torch.zeros(len(texts), 2).long(), keys=texts)
    with torch.inference_mode():
        output = loaded.model(batch)
        image, patches = (one.numpy() for one in loaded.model.encode_image(pixels, patches=True))
    vectors = []
    for row, text in enumerate(texts):
        name = NAMES[CLASSES[row // len(TEMPLATES)]]
        first, last = text.index(name), text.index(name) + len(name)
        inside = [
            at
            for at, (start, end) in enumerate(encoded.offsets[row].tolist())
            if first <= start < end <= last and start >= 0
        ]
        assert len(inside) >= 2 and encoded.offsets[row, inside[0], 0] == first
        if of == "words":
            numbers = sorted({int(encoded.tokens.words[row, at]) for at in inside})
            vectors.append(output.words[row, numbers].mean(0).numpy())
        else:
            vectors.append(output.tokens[row, inside].mean(0).numpy())
    concepts = unit(unit(np.stack(vectors)).reshape(len(CLASSES), len(TEMPLATES), -1).mean(1))
    prompts = unit(unit(output.text.numpy()).reshape(len(CLASSES), len(TEMPLATES), -1).mean(1))
    cosines = np.sort(unit(patches) @ concepts.T, axis=1)[:, -TOP:].mean(1)
    return ALPHA * softmax(cosines / LOCAL) + (1 - ALPHA) * softmax(unit(image) @ prompts.T / GLOBAL)


@pytest.mark.parametrize("of", ["tokens", "words"])
def test_the_local_branch_is_of_the_words_that_name_the_class(run: Run, shards: Path, tmp_path: Path, of: str) -> None:
    model = model_with({of}, tmp_path / "model")
    suite = suite_of(tmp_path, temperature=GLOBAL, local_temperature=LOCAL)
    assert score(run, shards, tmp_path / "out", model, suite=str(suite)) == 0
    (entry,) = results.read(tmp_path / "out")["tasks"]
    assert entry["scoring"]["local_words"] == {name: [NAMES[name]] * len(TEMPLATES) for name in CLASSES}
    rows = [json.loads(one) for one in (tmp_path / "out" / "samples" / "mine.concepts.jsonl").read_text().splitlines()]
    found = np.array([[row["scores"][name] for name in CLASSES] for row in rows])
    right = expected(model, shards, [row["id"] for row in rows], of)
    assert np.allclose(found, right, atol=1e-5)
    assert np.ptp(right, axis=0).min() > 1e-3  # the images are told apart at all
    words = ["--suite", suite, "--data", shards]
    assert run("embed", "--model", model, *words, "--out", tmp_path / "cache") == 0
    more = ["--out", tmp_path / "again", "--resamples", 200, "--no-html"]
    assert run("score", "--embeddings", tmp_path / "cache", *words, *more) == 0
    assert results.read(tmp_path / "again")["tasks"] == [entry]


def test_a_model_without_words_says_so_and_takes_prompts(run: Run, shards: Path, tiny: Path, tmp_path: Path) -> None:
    assert score(run, shards, tmp_path / "out", tiny, suite=str(suite_of(tmp_path))) == 2
    reason = results.read(tmp_path / "out")["tasks"][0]["reason"]
    assert "trained without an objective that needs words" in reason and "local_text: prompts" in reason
    suite = suite_of(tmp_path, local_text="prompts")
    assert score(run, shards, tmp_path / "prompts", tiny, suite=str(suite)) == 0
    assert "local_words" not in results.read(tmp_path / "prompts")["tasks"][0]["scoring"]


def test_prompts_that_no_template_made_name_their_class_by_its_label(tmp_path: Path) -> None:
    from vlp_eval.zero_shot import prompts

    texts = {"Edema": {"pos": ["Pulmonary edema is seen.", "Wet lungs."]}}
    (tmp_path / "mine.yaml").write_text(json.dumps({"version": "1", "about": "x", "classes": texts}))
    found = prompts.read("mine.yaml", ["Edema"], tmp_path)
    assert found.named() == {"Edema": ["edema", "Wet lungs."]}
