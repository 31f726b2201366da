"""Every kind, held to the same standard: its formula, any number of ranks, any order, any precision, honest gradients."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.objectives.cases import CASES
from tests.objectives.kit import BY_ENTRY, Case, loss_and_gradients, make, part, permuted, with_gradients
from tests.objectives.ranks import LAYOUTS, Layout
from vlp.batch import ModelOutput
from vlp.objectives import mgca, objectives
from vlp.objectives.functional import info_nce, patch_pooling, tiled

every = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def as_numpy(value: Any) -> Any:
    """Return a dataclass with its tensors, however deep, as arrays."""
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: as_numpy(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{item.name: as_numpy(getattr(value, item.name)) for item in dataclasses.fields(value)}
        )
    return value


def test_every_registered_kind_has_a_case() -> None:
    assert {str(case.tree["kind"]) for case in CASES} == set(objectives)


@pytest.mark.parametrize("case", [case for case in CASES if case.oracle], ids=lambda case: case.name)
@pytest.mark.parametrize("bare", [False, True], ids=["", "bare"])
def test_the_value_is_the_formulas(case: Case, bare: bool) -> None:
    assert case.oracle is not None
    objective = case.build()
    output, batch = case.world(bare=bare)
    (own,) = objective.terms.values()
    parameters = {name: one.numpy() for name, one in own.state_dict().items()}
    expected = case.oracle(as_numpy(output), as_numpy(batch), parameters)
    np.testing.assert_allclose(objective(output, batch, 0.5).total.item(), expected, rtol=case.exact, atol=1e-12)


@pytest.mark.dist
@every
@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def test_many_processes_are_one(case: Case, layout: Layout, ranks: dict[str, dict[str, Any]]) -> None:
    ranks_of = [ranks[f"{layout.name}-{rank}"] for rank in range(len(layout.shares))]
    for dtype, tolerance in ((torch.float32, 1e-6 * case.magnitude), (torch.float64, 1e-12 * case.magnitude)):
        alone = loss_and_gradients(case, dtype, bare=layout.bare, training=layout.training, missing=layout.missing)
        found = [one[f"{case.name}/{dtype}"] for one in ranks_of]
        for name, expected in alone.items():
            mean = torch.stack([one[name] for one in found]).mean(0)
            size = max(1.0, float(expected.abs().max()))
            assert float((mean - expected).abs().max()) <= tolerance * size, (name, mean, expected)


@every
def test_the_order_of_samples_does_not_matter(case: Case) -> None:
    objective = case.build()
    output, batch = case.world()
    again = permuted(output, batch, [3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(objective(output, batch, 0.5).total, objective(*again, 0.5).total)


@every
def test_gradients_reach_what_they_must(case: Case) -> None:
    objective = case.build()
    output, batch = case.world()
    output, leaves = with_gradients(output)
    objective(output, batch, 0.5).total.backward()
    for name in case.reaches:
        assert leaves[name].grad is not None and float(leaves[name].grad.abs().sum()) > 0, name
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, f"{name} is not in the graph: data parallelism would stop"
        # An attention's key bias shifts every score of a softmax alike: its gradient is zero by nature.
        assert "in_proj_bias" in name or float(parameter.grad.abs().sum()) > 0, name


@every
def test_only_kinds_that_say_so_follow_the_progress_of_training(case: Case) -> None:
    """A run of the others may be made longer when it is resumed."""
    objective = case.build()

    def gradients(progress: float) -> list[Tensor]:
        torch.manual_seed(0)
        objective.zero_grad()
        output, batch = case.world()
        output, leaves = with_gradients(output)
        total = objective(output, batch, progress).total
        total.backward()
        owned = [*leaves.values(), *objective.parameters()]
        return [total.detach(), *(one.grad.clone() for one in owned if one.grad is not None)]

    early, late = gradients(0.0), gradients(0.9)
    same = all(torch.equal(one, two) for one, two in zip(early, late, strict=True))
    assert same is not objective.follows_progress


@every
def test_nothing_asked_for_is_left_out_of_the_needs(case: Case) -> None:
    """An output with only the declared needs must do: what the model does not compute cannot be read."""
    objective = case.build()
    output, batch = case.world()
    companions = {"words": {"word_mask"}, "masked_patches": {"patch_mask", "grid"}, "patches": {"grid"}}
    kept = (
        {"image", "text"} | set(objective.needs) | {one for need in objective.needs for one in companions.get(need, ())}
    )
    bare = {name: None for name in (*output.tensors(), "grid") if name not in kept}
    if "phrases" not in objective.needs:
        batch.phrases = None
    if "spans" not in objective.needs:
        batch.spans = None
    if "labels" not in objective.needs:
        batch.labels = None
    batch.extras = {name: value for name, value in batch.extras.items() if f"extras.{name}" in objective.needs}
    total = objective(dataclasses.replace(output, **bare), batch, 0.5).total
    assert torch.isfinite(total)


@every
def test_gradients_are_the_slopes_of_the_value(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = case.build().eval()
    output, batch = case.world(3)
    # Sinkhorn's codes carry no gradient by definition: hold them still while the slopes are measured.
    codes = torch.softmax(torch.randn(3, 5, dtype=torch.float64), 1)
    monkeypatch.setattr(mgca, "sinkhorn", lambda *_: codes)
    owned = list(objective.parameters())
    leaves = [output.tensors()[name].detach().clone().requires_grad_() for name in case.reaches]

    def value(*inputs: Tensor) -> Tensor:
        given = dict(zip(case.reaches, inputs[: len(leaves)], strict=True))
        return objective(dataclasses.replace(output, **given), batch, 0.5).total

    assert torch.autograd.gradcheck(value, (*leaves, *owned), fast_mode=True)


@every
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_in_full_precision_within(case: Case, half: torch.dtype) -> None:
    objective = case.build(torch.float32)
    output, batch = case.world(dtype=torch.float32)
    halved = {name: value.to(half) for name, value in output.tensors().items() if value.is_floating_point()}
    small, leaves = with_gradients(dataclasses.replace(output, **halved))
    widened = dataclasses.replace(output, **{name: value.float() for name, value in halved.items()})
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective(small, batch, 0.5)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total, objective(widened, batch, 0.5).total)
    losses.total.backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values() if leaf.grad is not None)


@every
@pytest.mark.parametrize("sort", ["equal", "zero"])
def test_degenerate_embeddings_stay_finite(case: Case, sort: str) -> None:
    """All samples alike, as at the start of some runs, and zero vectors and texts without a word, as of empty reports."""
    objective = case.build(torch.float32)
    output, batch = case.world(dtype=torch.float32)
    embedded = ("image", "text", "patches", "words", "tokens", "phrases", "prompts", "text_view", *BY_ENTRY)
    for value in map(output.tensors().__getitem__, embedded):
        value[:] = value[:1] if sort == "equal" else 0
    if sort == "zero":
        output.word_mask[0] = False
        output.word_attention[:] = 0
        output.patch_attention[:] = 0
    output, leaves = with_gradients(output)
    total = objective(output, batch, 0.5).total
    total.backward()
    assert torch.isfinite(total)
    for name, leaf in (*leaves.items(), *objective.named_parameters()):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all(), name


@every
def test_a_batch_of_one(case: Case) -> None:
    objective = case.build()
    output, batch = part(*case.world(), 0, 1)
    if case.single is not None:
        with pytest.raises(ValueError, match=case.single):
            objective(output, batch, 0.5)
    else:
        total = objective(with_gradients(output)[0], batch, 0.5).total
        total.backward()
        assert torch.isfinite(total)


@every
def test_the_batch_is_left_as_it_was(case: Case) -> None:
    objective = case.build()
    output, batch = case.world()
    output, _ = with_gradients(output)
    objective(output, batch, 0.5).total.backward()
    for changed, untouched in zip((output, batch), case.world(), strict=True):
        np.testing.assert_equal(dataclasses.asdict(as_numpy(changed)), dataclasses.asdict(as_numpy(untouched)))


@every
def test_bounded_memory_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streaming core in tiles smaller than the batch, and token-level chunks, against the dense forms."""
    dense = loss_and_gradients(case, torch.float64)
    monkeypatch.setattr(info_nce, "STREAM_ABOVE", 0)
    monkeypatch.setattr(tiled, "TILE_ROWS", 2)
    monkeypatch.setattr(tiled, "TILE_COLUMNS", 4)
    monkeypatch.setattr(patch_pooling, "HELD", 8)
    monkeypatch.setattr("vlp.objectives.gloria.PAIR_VALUES", 40)
    monkeypatch.setattr("vlp.objectives.functional.positives.BLOCK", 12)
    streamed = loss_and_gradients(case, torch.float64)
    for name, expected in dense.items():
        torch.testing.assert_close(streamed[name], expected, rtol=1e-9, atol=1e-11, msg=name)


GROUPED = [kind for kind in objectives if "positives" in objectives.get(kind).Config.__annotations__]


def line_of(kind: str, **settings: Any) -> dict[str, Any]:
    first = next(case for case in CASES if case.tree["kind"] == kind)
    return {**first.tree, **settings}


def test_every_contrastive_kind_lets_positives_be_chosen() -> None:
    """The others match by labels (`label_aware`, `medclip`) or assertions (`assertion`, `multi_text`), or compare no pairs."""
    assert {"convirt", "clip", "siglip", "mgca", "dhn_nce", "concept", "gloria"} == set(GROUPED)


@pytest.mark.parametrize("kind", GROUPED)
@pytest.mark.parametrize("positives", ["group", "label"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_distinct_groups_are_the_diagonal(kind: str, positives: str, dtype: torch.dtype) -> None:
    output, batch = make(dtype=dtype)
    batch.group = torch.arange(1, 13).reshape(6, 2)
    batch.labels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.int8)
    align = {"align": "siglip"} if kind == "concept" else {}
    values = [
        Case("", line_of(kind, positives=one, **align)).build(dtype)(output, batch, 0.5).total
        for one in (positives, "diagonal")
    ]
    assert abs(values[0].item() - values[1].item()) <= 1e-7


@pytest.mark.parametrize("kind", GROUPED)
def test_samples_of_one_group_do_not_push_each_other_away(kind: str) -> None:
    """The gradient of an image on its twin's text pulls where it pushed."""
    output, batch = make()
    batch.group = torch.tensor([[1, 11], [1, 12], [3, 13], [4, 14], [5, 15], [6, 16]])
    output.image[:] = torch.eye(6, 4)[:, [0, 1, 2, 3]] + 0.01
    output.text[:] = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    output.text[1] = torch.nn.functional.normalize(output.text[1], dim=0)
    slopes = {}
    for positives in ("diagonal", "group"):
        align = {"align": "siglip"} if kind == "concept" else {}
        given, leaves = with_gradients(output)
        Case("", line_of(kind, positives=positives, **align)).build()(given, batch, 0.5).total.backward()
        assert leaves["image"].grad is not None
        slopes[positives] = float(leaves["image"].grad[0] @ output.text[1])
    assert slopes["group"] < slopes["diagonal"], (
        "the loss falls faster, or rises less, as the image nears its twin's text"
    )


CORE = ["convirt", "clip", "siglip", "dhn_nce", "label_aware"]


def saved_by(kind: str, rows: int, like: torch.dtype = torch.float32) -> tuple[int, Tensor, list[Tensor]]:
    """Return the largest number of values that a loss of `rows` samples keeps for its backward, its value, its gradients."""
    generator = torch.Generator().manual_seed(rows)
    image, text = (torch.randn(rows, 8, generator=generator, dtype=like).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor([10.0], dtype=like).requires_grad_(), torch.tensor([-5.0], dtype=like).requires_grad_()
    _, batch = make(1)
    batch = dataclasses.replace(
        batch,
        image=torch.zeros(rows, 1),
        keys=[str(row) for row in range(rows)],
        group=torch.arange(1, 2 * rows + 1).reshape(rows, 2),
        labels=torch.randint(0, 2, (rows, 12), generator=generator).to(torch.int8),
    )
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    objective = Case("", {"kind": kind}).build(like)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = objective(ModelOutput(image, text, logit_scale=scale, logit_bias=bias), batch, 0.5).total
    total.backward()
    return largest, total.detach(), [one.grad for one in (image, text, scale, bias) if one.grad is not None]


@pytest.mark.parametrize("kind", CORE)
def test_large_batches_never_hold_their_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, above the documented size; below it the matrix is formed, as that is faster."""
    limit = 2048 * 2048
    assert limit == info_nce.STREAM_ABOVE
    held, _, _ = saved_by(kind, 128)
    assert held >= 128 * 128
    rows = 2100
    held, streamed, slopes = saved_by(kind, rows)
    assert held < rows * rows // 50
    monkeypatch.setattr(info_nce, "STREAM_ABOVE", rows * rows)
    held, dense, expected = saved_by(kind, rows)
    assert held >= rows * rows
    torch.testing.assert_close(streamed, dense, rtol=1e-5, atol=1e-5)
    for found, other in zip(slopes, expected, strict=True):
        assert float((found - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


def test_every_kind_says_where_it_is_from() -> None:
    """Each has its paper, its equation and its own settings, with defaults that are stated where they are set."""
    for kind in set(objectives) - {"example_margin"}:
        cls = objectives.get(kind)
        about, page = sys.modules[cls.__module__].__doc__ or "", cls.__doc__ or ""
        assert re.search(r"(19|20)\d\d", about), f"{kind}: no paper"
        assert re.search(r"`[^`]*=[^`]*`", page), f"{kind}: no equation"
        assert "Config" in vars(cls), f"{kind}: owns no Config"
