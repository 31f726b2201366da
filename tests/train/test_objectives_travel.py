"""What an objective learnt for itself leaves with the model: from a run to an export, and into the objective again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlp
from tests.train.conftest import run
from vlp.export.cli import main
from vlp.objectives import build_objectives

OBJECTIVES = [{"kind": "mgca", "prototypes": 12}, {"kind": "clip", "positives": "group"}]
BERT = "{model_type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"


@pytest.mark.usefixtures("warm_checks")
def test_prototypes_are_exported_and_fit_the_objective(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"model.text={{kind: hf, config: {BERT}}}"
    done = run(recipe, "name=mgca", f"objectives={OBJECTIVES}", text, "train.samples=32", "optim.warmup_samples=8")
    assert done.returncode == 0, done.stderr
    last = tmp_path / "runs" / "mgca" / "last"
    assert main([str(last), "--to", str(tmp_path / "export")]) == 0, capsys.readouterr().err
    loaded = vlp.from_pretrained(tmp_path / "export")
    (trained,) = [
        value
        for file in (last / "state" / "engine").rglob("*.safetensors")
        for name, value in load_file(str(file)).items()
        if name == "param.objectives.terms.mgca.prototypes"
    ]
    objectives = build_objectives(OBJECTIVES, loaded.model.dim)
    start = objectives.state_dict()["terms.mgca.prototypes"].clone()
    objectives.load_state_dict(loaded.objectives)
    assert torch.equal(objectives.state_dict()["terms.mgca.prototypes"], trained)
    assert trained.shape == (12, 16) and not torch.equal(trained, start)
