"""LoRA and frozen towers trained by the real command from given weights, resumed, and exported merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vlp
from tests.train.conftest import run
from vlp.export.cli import main
from vlp.models.lora import merge_lora
from vlp.train.checkpoint import latest
from vlp_prep.synthetic.generate import generate

VIT = "{model_type: vit, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64, patch_size: 8}"
BERT = "{model_type: bert, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"
RECIPE = """
seed: 3
image: {{size: 32, channels: 3, resize: squash, interpolation: bicubic}}
tokenizer: {{kind: wordpiece, vocab_size: 200, length: 48}}
model:
  dim: 16
  image: {{kind: hf, config: {vit}, pretrained: {folder}/vit.safetensors, {image}}}
  text: {{kind: hf, config: {bert}, {text}}}
data: {{train: {shards}, batch_size: 8, workers: 1}}
objectives: [{{kind: clip, positives: group}}]
optim: {{lr: 1.0e-2, warmup_samples: 16}}
train: {{samples: 160, log_every: 5, checkpoint_every_steps: 10}}
out: {folder}/runs
"""
REPORTS = ["There is a small nodule.", "No pneumothorax.", "The heart is enlarged."]


def recipe(folder: Path, shards: Path, image: str, text: str) -> Path:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    vit = AutoModel.from_config(
        AutoConfig.for_model("vit", **shape, patch_size=8, image_size=32), add_pooling_layer=False
    )
    save_file(vit.state_dict(), str(folder / "vit.safetensors"))
    made = folder / "tiny.yaml"
    made.write_text(RECIPE.format(vit=VIT, bert=BERT, folder=folder, shards=shards, image=image, text=text))
    return made


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a tower's own weights under their names without adapters."""
    return {name.replace("base_layer.", ""): value for name, value in state.items() if "lora_" not in name}


@pytest.mark.slow
def test_lora_trains_resumes_and_leaves_merged(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, shards, "adapter: {kind: lora, r: 16}", "adapter: {r: 4, targets: [query, value]}")
    done = run(path, "name=lora")
    assert done.returncode == 0, done.stderr
    assert "model.image <- vit.safetensors: loaded 38 of 38 tensors" in done.stderr, "the report is printed"
    folder = tmp_path / "runs" / "lora"
    adapted = vlp.from_pretrained(folder)

    tower = adapted.model.image_tower.state_dict()
    first = load_file(str(tmp_path / "vit.safetensors"))
    assert all(torch.equal(value, first[name.removeprefix("model.")]) for name, value in plain(tower).items())
    grown = {name: value.abs().max().item() for name, value in tower.items() if "lora_B" in name}
    assert len(grown) == 12 and min(grown.values()) > 0, "each adapter starts at zero and has learnt"
    assert {tuple(value.shape) for name, value in tower.items() if "lora_A" in name} == {(16, 32), (16, 64)}
    targets = {name.split(".")[-4] for name in adapted.model.text_tower.state_dict() if "lora_A" in name}
    assert targets == {"query", "value"}
    start = next(line for line in map(json.loads, (folder / "log.jsonl").open()) if line["event"] == "start")
    trained = sum(one.numel() for name, one in adapted.model.named_parameters() if "lora_" in name or "_head." in name)
    assert start["trained"] == trained + 1, "and the scale"

    shutil.copytree(folder, tmp_path / "runs" / "again", symlinks=True)
    again = tmp_path / "runs" / "again"
    newest = latest(again)
    assert newest is not None and newest.name == "step-00000020"
    shutil.rmtree(newest)
    (again / "last").unlink()
    (again / "last").symlink_to("checkpoints/step-00000010")
    resumed = run(path, "name=again", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (again / "last" / "model.safetensors").read_bytes() == (folder / "last" / "model.safetensors").read_bytes()

    pictures = [generate(index, 0, 48).image for index in range(3)]
    images, texts = adapted.embed_images(pictures), adapted.embed_texts(REPORTS)
    for kind in ("vlp", "transformers"):
        assert main([str(folder), "--to", str(tmp_path / kind), "--format", kind]) == 0, capsys.readouterr().err
    again_loaded = vlp.from_pretrained(tmp_path / "vlp")
    assert not [name for name in again_loaded.model.state_dict() if "lora" in name or "base_layer" in name]
    assert torch.allclose(again_loaded.embed_images(pictures), images, atol=1e-5)
    assert torch.allclose(again_loaded.embed_texts(REPORTS), texts, atol=1e-5)
    for name, value in adapted.model.image_tower.named_parameters():
        value.data.mul_(0.0 if "lora_B" in name else 1.0)
    assert (adapted.embed_images(pictures) - images).abs().max() > 1e-3, "the adapters matter"
    card = (tmp_path / "vlp" / "README.md").read_text()
    for index in range(58):
        sample = generate(index, 0, 48)
        assert sample.report.text not in card and sample.key not in card


@pytest.mark.slow
def test_frozen_towers_keep_their_weights_while_heads_learn(tmp_path: Path, shards: Path) -> None:
    path = recipe(tmp_path, shards, "frozen: true", "frozen: true")
    for samples in (8, 160):
        done = run(path, f"name=after{samples}", f"train.samples={samples}")
        assert done.returncode == 0, done.stderr
    early, late = (vlp.from_pretrained(tmp_path / "runs" / f"after{samples}").model for samples in (8, 160))
    changed = {name for name, value in late.state_dict().items() if not torch.equal(value, early.state_dict()[name])}
    assert changed == {"image_head.weight", "text_head.weight", "logit_scale"}
    first = load_file(str(tmp_path / "vit.safetensors"))
    assert all(torch.equal(value, first[name]) for name, value in late.image_tower.model.state_dict().items())


TOWERS = {
    "timm": {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 24, "num_heads": 3}},
    "open_clip": {
        "kind": "open_clip",
        "config": {"embed_dim": 24, "vision_cfg": {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8}},
    },
}


@pytest.mark.parametrize("name", TOWERS)
def test_adapters_on_towers_of_other_libraries(name: str) -> None:
    from tests.models.tiny import batch, make

    model, tokenizer = make(image={**TOWERS[name], "adapter": {"r": 3}}, channels=3, needs=frozenset())
    data = batch(tokenizer, channels=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.5)
    for _ in range(3):
        output = model.train()(data)
        nn.functional.cross_entropy(output.image @ output.text.T, torch.arange(4)).backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert all("lora_" in key for key in changed if key.startswith("image_tower."))
    assert any("lora_B" in key for key in changed)
    plain_model = merge_lora(model.eval())
    with torch.no_grad():
        image = model.encode_image(data.image, patches=True)
        same = plain_model.encode_image(data.image, patches=True)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(image, same, strict=True))
        output, theirs = model(data), plain_model(data)
    assert np.allclose(output.text, theirs.text, atol=1e-5)
    assert not [key for key in plain_model.state_dict() if "lora" in key]
    assert [key for key in model.state_dict() if "lora" in key], "the model itself is left alone"


def test_targets_that_do_not_exist_are_named() -> None:
    from tests.models.tiny import make
    from vlp.core.config import ConfigError

    with pytest.raises(ConfigError, match=r"model\.image\.adapter\.targets: no linear layer .*'qvk'.*qkv"):
        make(image={**TOWERS["timm"], "adapter": {"targets": ["qvk"]}}, channels=3)
