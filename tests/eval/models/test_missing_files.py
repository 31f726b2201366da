"""Exports in others' formats with one file missing: each a clear error, never another model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.test_formats import RESNET, native
from tests.models.test_dual_encoder import VIT
from vlp.core.config import ConfigError
from vlp.export import exporters
from vlp_eval.models import load as embedder

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "open_clip": ("open_clip:local-dir:", {"image": RESNET, "spec": {"resize": "pad"}}),
    "transformers": ("hf:", {"image": VIT}),
}
TEXTS = ["There is a nodule.", "x", "No pleural effusion. The heart is normal in size."]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_with_one_file_missing_is_never_another_model(kind: str, tmp_path: Path) -> None:
    start, options = FORMATS[kind]
    folder = tmp_path / "export"
    folder.mkdir()
    exporters.get(kind)(kind).write(native(**options), folder, False)
    whole = embedder.load(f"{start}{folder}", "cpu").encode("text", TEXTS)["text"]
    files = sorted(folder.iterdir())
    complaints = {}
    for file in files:
        file.rename(tmp_path / "away")
        try:
            found = embedder.load(f"{start}{folder}", "cpu").encode("text", TEXTS)["text"]
        except ConfigError as error:
            complaints[file.name] = str(error)
        else:
            assert np.array_equal(found, whole), f"without {file.name} it is another model"
        (tmp_path / "away").rename(file)
    assert all(str(folder) in complaint for complaint in complaints.values()), complaints
    assert complaints.keys() >= {"config.json", "tokenizer.json"} and any("safetensors" in name for name in complaints)
    assert len(files) - len(complaints) <= 2, complaints
