"""An image without a text: every kind that needs one gives what it gives for the batch without that image."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import CASES
from tests.objectives.kit import Case, entries_of, with_gradients
from vlp.batch import Batch, ModelOutput, Phrases, Ragged, Spans
from vlp.objectives import objectives

BY_ROW = ("image", "text", "patches", "patch_attention", "words", "word_mask", "word_attention", "tokens", "text_view")
IMAGES_ONLY = {"mae"}
"""Kinds that read no text."""


def without(output: ModelOutput, batch: Batch, rows: list[int]) -> tuple[ModelOutput, Batch]:
    """Return the world without `rows`, owners counted anew: written out, not with what is under test."""
    kept = [row for row in range(len(batch)) if row not in rows]
    index = torch.tensor(kept, dtype=torch.int64)
    assert batch.spans is not None and batch.phrases is not None and batch.prompts is not None
    own = [place for place, owner in enumerate(batch.spans.owner.tolist()) if owner in kept]
    owner = torch.tensor([kept.index(batch.spans.owner[place].item()) for place in own], dtype=torch.int64)
    spans = {name: getattr(batch.spans, name)[own] for name in ("start", "end", "code", "assertion")}
    changed: dict[str, Any] = {name: getattr(output, name)[index] for name in (*BY_ROW, "masked_patches", "patch_mask")}
    extras: dict[str, Any] = {}
    for name, value in batch.extras.items():
        if not isinstance(value, Ragged):
            extras[name] = value[index]
            continue
        places = [place for place, row in enumerate(value.owner.tolist()) if row in kept]
        extras[name] = entries_of(value, places, kept.index)
        changed[f"extras.{name}"] = output.extras[name][places]
    assert output.phrases is not None and batch.labels is not None
    return dataclasses.replace(output, **changed, phrases=output.phrases[own]), dataclasses.replace(
        batch,
        image=batch.image[index],
        text=batch.text.take(index),
        group=batch.group[index],
        keys=[batch.keys[row] for row in kept],
        labels=batch.labels[index],
        spans=Spans(owner=owner, **spans),
        phrases=Phrases(tokens=batch.phrases.tokens.take(torch.tensor(own)), owner=owner, code=batch.phrases.code[own]),
        prompts=dataclasses.replace(batch.prompts, asserted=batch.prompts.asserted[index]),
        extras=extras,
    )


def run(case: Case, missing: list[int], drop: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and all gradients with the rows `missing` dropped beforehand, or there without a text."""
    objective = case.build()
    output, leaves = with_gradients((world := case.world())[0])
    batch = world[1]
    if drop:
        output, batch = without(output, batch, missing)
    else:
        batch.has_text = [row not in missing for row in range(len(batch))]
    total = objective(output, batch, 0.5).total
    total.backward()
    owned = dict(objective.named_parameters())
    assert all(one.grad is not None for one in owned.values()), "data parallelism would stop"
    return total.detach(), {
        name: one.grad if one.grad is not None else torch.zeros_like(one) for name, one in {**leaves, **owned}.items()
    }


@pytest.mark.parametrize("missing", [[1, 4], [0], [2, 3, 5]], ids=str)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_missing_text_is_a_missing_row(case: Case, missing: list[int]) -> None:
    reads_images_only = not case.build().needs_text
    assert reads_images_only == (case.tree["kind"] in IMAGES_ONLY)
    value, slopes = run(case, missing, drop=False)
    expected, others = run(case, [] if reads_images_only else missing, drop=True)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, others[name], rtol=1e-10, atol=1e-12, msg=f"{name}: another gradient")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_batch_of_images_alone_is_no_loss_and_no_error(case: Case) -> None:
    value, slopes = run(case, list(range(6)), drop=False)
    assert torch.isfinite(value)
    if case.build().needs_text:
        assert value == 0
        assert all(not slope.any() for slope in slopes.values())


def test_each_kind_says_whether_it_needs_a_text() -> None:
    assert {name for name in objectives if not objectives.get(name).needs_text} == IMAGES_ONLY
