"""Recipes to objectives: names, weights, needs, prompts, and what they complain of."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from tests.objectives.kit import DIM, FACETS, FINDINGS, make, part
from vlp.core.config import ConfigError
from vlp.objectives import build_objectives
from vlp.objectives.base import WeightSchedule


def test_a_weighted_sum_with_named_parts() -> None:
    trees = [{"kind": "convirt", "weight": 2.0}, "clip", {"kind": "clip", "weight": [[0.5, 0.0], [1.0, 1.0]]}]
    objective = build_objectives(trees, DIM).double()
    output, batch = make()
    for progress, second in ((0.0, 0.0), (0.5, 0.0), (0.75, 0.5), (1.0, 1.0)):
        losses = objective(output, batch, progress)
        parts = losses.parts
        assert set(parts) >= {"convirt", "clip", "clip-2", "clip/image_to_text", "clip-2/text_to_image"}
        torch.testing.assert_close(losses.total, 2 * parts["convirt"] + parts["clip"] + second * parts["clip-2"])
        assert not any(part.requires_grad for part in parts.values())


def test_what_the_model_and_the_loader_must_provide() -> None:
    trees = [{"kind": "siglip"}, {"kind": "concept", "align": "none"}, {"kind": "convirt", "positives": "label"}]
    objective = build_objectives(trees, DIM)
    assert objective.needs == {"logit_scale", "logit_bias", "patches", "tokens", "spans", "labels"}
    assert objective.scale_init == pytest.approx((math.log(10), -10.0))
    assert objective.prompt_spec() is None
    assert objective.batch_coupled
    assert build_objectives(["convirt"], DIM).scale_init is None
    assert not build_objectives([{"kind": "mae"}], DIM).batch_coupled


def test_scales_and_biases_have_one_dimension() -> None:
    for name, parameter in build_objectives(["concept"], DIM).named_parameters():
        assert parameter.shape == (1,), name


def test_prompts_of_several_objectives_share_the_batch() -> None:
    first, second = {"kind": "assertion", "findings": FINDINGS}, {"kind": "multi_text", "texts": FACETS}
    both = build_objectives([first, second], DIM).double()
    spec = both.prompt_spec()
    assert spec is not None
    assert spec.findings == ("effusion", "nodule", "edema", "effusion", "effusion", "edema")
    assert spec.affirm[0] == "there is pleural effusion" and spec.affirm[-1] == "wet lungs"
    assert spec.deny[0] == "there is no pleural effusion" and len(spec.deny) == len(spec.affirm)
    output, batch = make()
    joint = both(output, batch, 0.0).parts
    assert output.prompts is not None and batch.prompts is not None
    affirm, deny = output.prompts.chunk(2)
    for tree, own in ((first, slice(0, 3)), (second, slice(3, 6))):
        alone = dataclasses.replace(output, prompts=torch.cat([affirm[own], deny[own]]))
        prompts = dataclasses.replace(
            batch.prompts, findings=batch.prompts.findings[own], asserted=batch.prompts.asserted[:, own]
        )
        expected = build_objectives([tree], DIM)(alone, dataclasses.replace(batch, prompts=prompts), 0.0).total
        torch.testing.assert_close(joint[str(tree["kind"])], expected)


@pytest.mark.parametrize(
    ("need", "place", "trees"),
    [
        ("patches", "ModelOutput.patches", ["gloria"]),
        ("words", "ModelOutput.words", ["mgca"]),
        ("tokens", "ModelOutput.tokens", ["concept"]),
        ("logit_scale", "ModelOutput.logit_scale", ["clip"]),
        ("spans", "Batch.spans", ["concept"]),
        ("labels", "Batch.labels", ["medclip"]),
        ("phrases", "Batch.phrases", [{"kind": "concept", "of": "phrases", "align": "none"}]),
    ],
)
def test_a_missing_need_is_named_with_the_way_to_it(need: str, place: str, trees: list[Any]) -> None:
    objective = build_objectives(trees, DIM)
    output, batch = make()
    setattr(output if place.startswith("Model") else batch, need, None)
    with pytest.raises(ConfigError, match=f"needs {need}, but {place} is missing: "):
        objective(output, batch, 0.0)
    with pytest.raises(ConfigError, match=place):
        objective.check(output, batch)


def test_a_missing_extra_is_named() -> None:
    output, batch = make()
    del batch.extras["category"]
    with pytest.raises(ConfigError, match=r"Batch.extras\['category'\]"):
        build_objectives([{"kind": "label_aware", "by": "category"}], DIM)(output, batch, 0.0)


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        ([], "objectives: expected a list of at least one objective"),
        ({"kind": "clip"}, "expected a list"),
        ([{"kind": "sigclip"}], "objectives.0.kind: unknown objective 'sigclip': did you mean 'siglip'"),
        (["clip", {"kind": "mgca", "prototype": 3}], "unknown key 'objectives.1.prototype': did you mean 'prototypes'"),
        ([{"kind": "clip", "weight": -1}], "objectives.0.weight: expected a number >= 0"),
        ([{"kind": "clip", "weight": [[0.5, 1], [0.2, 0]]}], "progress rising"),
        ([{"kind": "clip", "weight": "heavy"}], "expected a number"),
        ([{"kind": "convirt", "temperature": 0}], "objectives.0.temperature: Input should be greater than 0, found 0"),
        ([{"kind": "clip", "scale": 101}], "objectives.0.scale: Input should be less than or equal to 100, found 101"),
        ([{"kind": "mgca", "sinkhorn_rounds": 0}], "objectives.0.sinkhorn_rounds: Input should be greater than or equal to 1"),
        ([{"kind": "multi_text", "texts": FACETS, "image_to_text": 2}], "objectives.0.image_to_text: Input should be less"),
        ([{"kind": "siglip", "exchange": "ring", "positives": "group"}], "use exchange: gather"),
        (["siglip", "clip"], "start them differently"),
        ([{"kind": "assertion", "findings": {}}], "at least one of each"),
        ([{"kind": "assertion", "findings": FINDINGS, "templates": [["has it", "no {}"]]}], "must hold one"),
        ([{"kind": "concept", "per": "report", "loss": "softmax"}], "use loss: sigmoid"),
        ([{"kind": "label_aware", "by": "category", "match": "overlap"}], "use it with by: labels"),
        ([{"kind": "medslip", "findings": ["a"], "places": {"x": [None, None]}}], "two places"),
        ([{"kind": "medslip", "findings": ["a"], "places": {"x": [None, None], "y": [None, "up"]}, "book": "no.pt"}],
         "book: no such file"),
        ([{"kind": "mae", "width": 10}], "multiple of 4 x heads"),
    ],
)  # fmt: skip
def test_complaints_name_the_key(trees: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_objectives(trees, DIM)
    assert message in str(caught.value)


def test_weights_follow_straight_lines() -> None:
    weight = WeightSchedule.read([[0.2, 1.0], [0.6, 3.0], [0.8, 0.0]], "weight")
    points = {0.0: 1.0, 0.2: 1.0, 0.4: 2.0, 0.6: 3.0, 0.7: 1.5, 0.8: 0.0, 1.0: 0.0}
    assert {at: weight.at(at) for at in points} == pytest.approx(points)
    assert WeightSchedule.read(0.5, "weight").at(0.9) == 0.5


def test_a_weight_of_zero_keeps_the_parameters_in_the_graph() -> None:
    objective = build_objectives(["convirt", {"kind": "mgca", "weight": 0.0}], DIM).double()
    output, batch = make()
    objective(output, batch, 0.0).total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_prototypes_rest_at_first() -> None:
    objective = build_objectives([{"kind": "mgca", "freeze": 0.3}], DIM).double()
    output, batch = make()
    for progress, moves in ((0.29, False), (0.31, True)):
        objective.zero_grad()
        objective(output, batch, progress).total.backward()
        (prototypes,) = objective.parameters()
        assert prototypes.grad is not None and bool(prototypes.grad.any()) is moves


def test_batches_do_not_touch_padding() -> None:
    """A wider padding of the same words changes no token-level loss (it would make loss depend on the batch's company)."""
    for kind in ("mgca", "gloria"):
        objective = build_objectives([kind], DIM).double()
        output, batch = make()
        wide = dataclasses.replace(
            output,
            words=torch.cat([output.words, torch.randn_like(output.words)], 1),
            word_mask=torch.cat([output.word_mask, torch.zeros_like(output.word_mask)], 1),
            word_attention=torch.cat([output.word_attention, torch.zeros_like(output.word_attention)], 1),
        )
        torch.testing.assert_close(objective(output, batch, 0.5).total, objective(wide, batch, 0.5).total)


def test_padding_does_not_act_on_mgca() -> None:
    output, batch = make()
    assert output.words is not None and output.word_mask is not None
    padding = ~output.word_mask
    moved = torch.where(padding[..., None], torch.randn_like(output.words), output.words)
    changed = dataclasses.replace(output, words=moved)
    objective = build_objectives([{"kind": "mgca", "prototypes": 4}], DIM).double()
    before, after = (objective(one, batch, 0.5).parts["mgca/cta"] for one in (output, changed))
    torch.testing.assert_close(before, after, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gone", ["pad_negatives", "shifted_attention", "distributed_sinkhorn"])
def test_switches_that_cannot_give_the_released_loss_are_gone(gone: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key 'objectives.0.{gone}'"):
        build_objectives([{"kind": "mgca", gone: True}], DIM)


def test_identities() -> None:
    """Section 13 of the reference: kinds that become each other."""
    output, batch = make()

    def value(tree: dict[str, Any], **fields: Any) -> float:
        changed = dataclasses.replace(output, **fields)
        total: torch.Tensor = build_objectives([tree], DIM).double()(changed, batch, 0.5).total
        return total.item()

    clip_at_10 = value({"kind": "clip"}, logit_scale=torch.tensor([10.0], dtype=torch.float64))
    assert value({"kind": "convirt", "image_to_text": 0.5}) == pytest.approx(clip_at_10, abs=1e-12)
    decoupled = {"kind": "dhn_nce", "alpha": 1.0, "beta_image": 0.0, "beta_text": 0.0, "temperature": 0.1}
    assert value(decoupled) == pytest.approx(2 * clip_at_10, abs=1e-12)
    batch.extras["category"] = torch.arange(1, 7)
    distinct = value({"kind": "label_aware", "by": "category"}, logit_scale=torch.tensor([10.0], dtype=torch.float64))
    assert distinct == pytest.approx(clip_at_10, abs=1e-12)
    biased = value({"kind": "siglip"})
    assert value({"kind": "siglip", "exchange": "ring"}) == pytest.approx(biased, abs=1e-12)


def test_a_part_of_the_world_is_a_batch() -> None:
    """The kit's own cutting: mentions keep their owners, and widths shrink."""
    output, batch = make()
    _, second = part(output, batch, 2, 4)
    assert second.spans is not None and second.spans.owner.tolist() == [0]
    assert len(second) == 2 and second.keys == ["sample-2", "sample-3"]
