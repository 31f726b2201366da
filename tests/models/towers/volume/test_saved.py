"""A model of volumes as a folder and back; what such a folder may name, also of the tower inside of a tower."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vlp
from tests.models.tiny import BERT, wordpieces
from tests.models.towers.volume.planted import spec
from tests.models.towers.volume.test_every_tower import TOWERS
from vlp import hub
from vlp.core.config import ConfigError
from vlp.modalities.volume.processor import VolumeProcessor
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig

ALL = frozenset({"patches", "logit_scale"})


def save(name: str, folder: Path) -> tuple[Any, tuple[int, int, int]]:
    tree, size, _ = TOWERS[name]
    torch.manual_seed(0)
    tokenizer = wordpieces()
    model = build_model(ModelConfig(image=tree, text=BERT, dim=8), spec(*size), tokenizer, ALL)
    hub.save_pretrained(folder, model, VolumeProcessor(spec(*size)), tokenizer)
    return model.eval(), size


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "inflated"])
def test_a_saved_model_gives_the_same_embeddings(name: str, tmp_path: Path) -> None:
    model, size = save(name, tmp_path / "model")
    again = vlp.from_pretrained(tmp_path / "model").model
    volume = torch.randint(-1000, 400, (1, 1, *size)).float()
    with torch.no_grad():
        for ours, theirs in zip(model.encode_image(volume, True), again.encode_image(volume, True), strict=True):
            torch.testing.assert_close(theirs, ours)
    assert again.grid == model.grid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "strange_towers:Mine"}, r"model\.image\.tower\.kind.*'strange_towers'.*--trust strange_towers"),
        ({"options": {"pretrained_cfg": "x"}}, r"model\.image\.tower\.options\.pretrained_cfg"),
        ({"options": {"strange": 1}}, r"model\.image\.tower\.options\.strange.*--trust timm"),
        ({"tower": {"kind": "timm"}}, r"model\.image\.tower: nested deeper"),
    ],
)
def test_the_tower_inside_of_a_tower_is_checked_as_any(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save("slices of a transformer", tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["model"]["image"]["tower"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=message):
        vlp.from_pretrained(tmp_path)
    assert "strange_towers" not in sys.modules


def test_options_of_a_3d_transformer_are_those_of_timm(tmp_path: Path) -> None:
    save("vit3d", tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["model"]["image"]["options"]["strange"] = 1
    (tmp_path / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"model\.image\.options\.strange.*--trust timm"):
        vlp.from_pretrained(tmp_path)
