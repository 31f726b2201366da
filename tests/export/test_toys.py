"""A new format is one file, a new tower library too: neither touches an existing exporter or tower."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests import ROOT
from tests.export.test_formats import native
from tests.models.test_dual_encoder import VIT
from tests.models.tiny import CONV
from vlp import hub
from vlp.core.errors import UnsupportedByFormat
from vlp.export import exporters
from vlp.export.cli import main, parser
from vlp.models.towers.base import Tower, TransformersForm


def test_a_new_format_is_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `module:Class`, as the command line takes a format that is not ours: written, checked, with a card."""
    loaded = native(VIT)
    hub.save_pretrained(tmp_path / "run", loaded.model, loaded.preprocess, loaded.tokenizer)
    name = "tests.export.toy_format:ToyExporter"
    monkeypatch.chdir(ROOT)
    assert main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--format", name]) == 0, capsys.readouterr().err
    assert "texts: equal to the native model's within" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: numpy" in card and "a table of known texts" in card
    assert "toy" in exporters and "embeddings of the probes, as a table" in parser().format_help()


def test_an_unknown_format_is_told_the_near_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--to", str(tmp_path / "out"), "--format", "open_clp"]) == 2
    assert "unknown export format 'open_clp': did you mean 'open_clip'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_new_tower_library_answers_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image tower's class gets `as_transformers`; the exporter is what it was."""
    loaded = native(CONV)
    with pytest.raises(UnsupportedByFormat, match="transformers has no image tower like kind 'conv'"):
        exporters.get("image")("image").write(loaded, tmp_path, False)
    layer = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertModel(BertConfig(vocab_size=11, **layer))

    def as_transformers(self: Tower) -> TransformersForm:
        return TransformersForm(model, model.config, "pooler")

    monkeypatch.setattr(type(loaded.model.image_tower), "as_transformers", as_transformers)
    exporters.get("image")("image").write(loaded, tmp_path, False)
    again = BertModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
