"""An objective compares two modalities: image and text unless its line of the recipe names others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.objectives.kit import DIM, make, with_gradients
from vlp.batch import Batch, ModelOutput
from vlp.core.config import ConfigError
from vlp.objectives import build_objectives

PAIR = {"between": ["image", "signal"]}


def world() -> tuple[ModelOutput, Batch]:
    """Return the kit's world with a third modality."""
    output, batch = make()
    output.pooled["signal"] = torch.randn(len(batch), DIM, dtype=torch.float64)
    return output, batch


@pytest.mark.parametrize("kind", ["convirt", "clip", "siglip", "dhn_nce", "label_aware"])
def test_it_is_the_loss_of_the_two(kind: str) -> None:
    output, batch = world()
    expected = build_objectives([kind], DIM)(replace(output, text=output.pooled["signal"]), batch).total
    assert torch.equal(build_objectives([{"kind": kind, **PAIR}], DIM)(output, batch).total, expected)
    turned = replace(output, image=output.pooled["signal"], text=output.image)
    expected = build_objectives([kind], DIM)(turned, batch).total
    assert torch.equal(
        build_objectives([{"kind": kind, "between": ["signal", "image"]}], DIM)(output, batch).total, expected
    )


def test_image_and_text_need_not_be_written() -> None:
    output, batch = world()
    for kind in ("clip", "gloria"):
        plain, written = ({"kind": kind}, {"kind": kind, "between": ["image", "text"]})
        assert torch.equal(*(build_objectives([tree], DIM)(output, batch).total for tree in (plain, written)))


def test_gradients_reach_the_two_and_no_other() -> None:
    output, leaves = with_gradients((found := world())[0])
    losses = build_objectives([{"kind": "clip", **PAIR}], DIM)(output, found[1])
    losses.total.backward()
    assert leaves["image"].grad.any() and leaves["pooled.signal"].grad.any() and leaves["text"].grad is None


def test_several_pairs_add_up() -> None:
    output, batch = world()
    both = build_objectives(["clip", {"kind": "clip", **PAIR, "weight": 0.5}], DIM)(output, batch)
    torch.testing.assert_close(both.total, both.parts["clip"] + 0.5 * both.parts["clip-2"])
    assert not torch.equal(both.parts["clip"], both.parts["clip-2"])


def test_local_features_are_those_of_the_two() -> None:
    """GLoRIA's words are the second's parts, whatever they are."""
    output, batch = world()
    words, mask = torch.randn(len(batch), 3, DIM, dtype=torch.float64), torch.ones(len(batch), 3, dtype=torch.bool)
    output = replace(output, **{"local.signal.features": words, "local.signal.mask": mask})
    expected = replace(output, text=output.pooled["signal"], words=words, word_mask=mask)
    found = build_objectives([{"kind": "gloria", **PAIR}], DIM)(output, batch).total
    assert torch.equal(found, build_objectives(["gloria"], DIM)(expected, batch).total)


def test_a_row_without_a_text_counts_where_no_text_is_compared() -> None:
    output, batch = world()
    objective = build_objectives([{"kind": "clip", **PAIR}], DIM)
    expected = objective(output, batch).total
    batch.has_text = [row != 2 for row in range(len(batch))]
    assert torch.equal(objective(output, batch).total, expected) and not objective.needs_text


def test_a_modality_without_an_encoder_is_named() -> None:
    objective = build_objectives([{"kind": "clip", **PAIR}], DIM)
    for call in (objective, objective.check):
        with pytest.raises(
            ConfigError, match="'clip': between: the model has no encoder for 'signal', only for image, text"
        ):
            call(*make())
    output, batch = world()
    with pytest.raises(ConfigError, match=r"'gloria' needs words, but ModelOutput.words is missing"):
        build_objectives([{"kind": "gloria", **PAIR}], DIM)(output, batch)


@pytest.mark.parametrize("between", ["image", ["image"], ["image", "image"], ["image", "text", "signal"], 3])
def test_anything_but_two_modalities_is_refused(between: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"objectives.0.between: expected two modalities, such as \[image, text\], found"
    ):
        build_objectives([{"kind": "clip", "between": between}], DIM)
