"""What no output depends on, found by shapes alone, is what a backward of a volume finds."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from tests.models.tiny import BERT, wordpieces
from tests.models.towers.volume.planted import spec
from tests.models.towers.volume.test_every_tower import TOWERS
from vlp.models.build import _reached, _reached_by_shape, build_untrained, unused_parameters
from vlp.models.dual_encoder import ModelConfig
from vlp.models.towers.base import Features


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("asked", ["", "patches attention", "masked_patches"])
@pytest.mark.parametrize("name", ["slices of a transformer", "vit3d", "monai vit"])
def test_shapes_tell_what_values_tell(name: str, asked: str, recomputes: bool) -> None:
    needs = frozenset(asked.split())
    tree, size, _ = TOWERS[name]
    config = ModelConfig(image={**tree, "checkpointing": recomputes}, text=BERT, dim=8)
    model, tokenizer = build_untrained(config, spec(*size), wordpieces(), needs), wordpieces()
    tower: Any = model.image_tower
    tower.idle = nn.Linear(3, 3)
    tower.apply_freezing("model.image")
    assert _reached_by_shape(model, tokenizer, {}) == _reached(model, tokenizer, {})
    lost = unused_parameters(model, tokenizer)
    assert {"image_tower.idle.weight", "image_tower.idle.bias"} <= set(lost)
    assert "forward" not in tower.__dict__ and all(value.grad is None for value in model.parameters())


def test_a_tower_that_must_see_values_is_run() -> None:
    tree, size, _ = TOWERS["patch_conv"]
    model, tokenizer = (
        build_untrained(ModelConfig(image=tree, text=BERT, dim=8), spec(*size), wordpieces()),
        wordpieces(),
    )

    class Looks(type(model.image_tower)):  # type: ignore[misc]
        def forward(self, image: Tensor, patches: bool = False) -> Features:
            assert float(image.sum()) == float(image.sum())
            found: Features = super().forward(image, patches)
            return found

    model.image_tower.__class__ = Looks
    assert _reached_by_shape(model, tokenizer, {}) is None
    assert "image_tower.position" not in unused_parameters(model, tokenizer)
