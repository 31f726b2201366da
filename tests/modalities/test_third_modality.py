"""A third modality is a file of its own: bytes to batch to model to `output.pooled`, saved and loaded with the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.modalities.toy_signal import SignalProcessor, SignalSpec
from tests.models import tiny
from vlp import hub
from vlp.core.config import ConfigError
from vlp.modalities.image.processor import ImageProcessor
from vlp.modalities.image.spec import ImageSpec
from vlp.models.build import build_model
from vlp.models.dual_encoder import ModelConfig
from vlp.objectives import build_objectives

SPEC = ImageSpec(size=32, channels=1)
SIGNALS = [np.array(row, "<f4").tobytes() for row in ([1, 2, 3, 4], [5, 6, 7, 8])]


def test_a_signal_goes_all_the_way(tmp_path: Path) -> None:
    processor = SignalProcessor(SignalSpec())
    natives = [processor.read(data) for data in SIGNALS]
    for seed in range(6):  # what is marked in the source is found where the geometry says
        found, geometry = processor.train(natives[0], None, np.random.default_rng(seed))
        assert found[int(geometry.to_input([2.5])[0])] == natives[0][2]
    config = ModelConfig(image=tiny.CONV, text=tiny.BERT, dim=24, encoders={"signal": {"kind": "linear"}})
    tokenizer, others = tiny.wordpieces(), {"signal": processor}
    model = build_model(config, SPEC, tokenizer, {"logit_scale"}, (2.0, None), others).eval()
    batch = tiny.batch(tokenizer, rows=2)
    batch.inputs["signal"] = processor.batch(natives)
    output = model(batch)
    expected = model.encoders["signal"].head(
        model.encoders["signal"].tower.layer(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    )
    assert torch.equal(output.pooled["signal"], expected) and list(output.pooled) == ["image", "text", "signal"]
    compared = build_objectives([{"kind": "clip", "between": ["image", "signal"]}], 24)(output, batch)
    compared.total.backward()
    assert all(parameter.grad is not None for parameter in model.encoders.parameters())

    hub.save_pretrained(tmp_path, model, ImageProcessor(SPEC), tokenizer, others=others)
    loaded = hub.from_pretrained(tmp_path)
    assert list(loaded.processors) == ["image", "text", "signal"]
    batch.inputs["signal"] = loaded.processors["signal"].batch(natives)
    assert torch.equal(loaded.model(batch).pooled["signal"], expected)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(image=tiny.CONV, text=tiny.BERT, dim=24, encoders={"signal": {"kind": "linear"}})
    tokenizer, others = tiny.wordpieces(), {"signal": SignalProcessor(SignalSpec())}
    with pytest.raises(ConfigError, match=r"model.encoders: \['signal'\] need a processor each, found \[\]"):
        build_model(config, SPEC, tokenizer)
    model = build_model(config, SPEC, tokenizer, others=others)
    hub.save_pretrained(tmp_path, model, ImageProcessor(SPEC), tokenizer, others=others)
    (tmp_path / "signal.json").write_text("[5]")
    with pytest.raises(ConfigError, match=r"the signal processor in .* is not the one"):
        hub.from_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["model"]["encoders"] = {"os:system": {"kind": "linear"}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="no modality 'os:system'"):
        hub.from_pretrained(tmp_path)
