"""What every objective is held against: one small world of outputs and batches, cut into ranks, and the cases to run on it.

A `Case` is a recipe line with its oracle (numpy, from the paper's formula). `make` gives all fields that any kind may ask
for; `part` cuts one rank's rows out of it, with the mentions that belong to them and padding of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.batch import Batch, Grid, Losses, ModelOutput, Phrases, Prompts, Ragged, Spans, Tokens
from vlp.needs.depths import Depths
from vlp.needs.organs import Organs
from vlp.objectives import ObjectiveSum, build_objectives
from vlp.sample import concept_code

DIM = 4
FINDINGS = {"effusion": "pleural effusion", "nodule": "nodule", "edema": "edema"}
FACETS = {"effusion": ("fluid in the pleural space", "blunted angle"), "edema": ("wet lungs",)}
PLACES = {"left": ("left", None), "right": ("right", None), "heart": (None, None)}
CODES = [
    concept_code(*one)
    for one in (
        ("nodule", "left", None),
        ("edema", "right", None),
        ("nodule", "left", None),
        ("edema", None, None),
        ("edema", "right", None),
        ("edema", None, None),
        ("opacity", "left", None),
    )
]
"""What the world's mentions speak of: some the same as others', one of no finding that `medslip` is asked for."""
ORGANS = {"lung": {}, "heart": {}, "liver": {}, "spleen": {}}
BY_ENTRY = {"extras.organs": "organs", "extras.depths": "depths"}
"""Outputs with a row for each entry of a ragged value of the batch, by that value's name in `Batch.extras`."""


def make(rows: int = 6, seed: int = 0, *, bare: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Any, Batch]:
    """Return (output, batch) of `rows` samples; `bare` leaves all but the first two without a concept, label or assertion."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.tensor(rng.normal(size=shape), dtype=dtype)

    def ids(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    owners = [0, 0, 1] if bare else [0, 0, 1, 2, rows - 1, rows - 1, 0]
    owners = [min(owner, rows - 1) for owner in owners]
    count = len(owners)
    start = rng.integers(1, 4, count)
    lengths = rng.integers(2, 6, rows)
    lengths[rng.integers(rows)] = 5
    word_mask = torch.tensor(np.arange(5) < lengths[:, None])
    attention = torch.tensor(rng.random((rows, 5)), dtype=dtype) * word_mask
    blank, short = torch.zeros((rows, 7), dtype=torch.int64), torch.zeros((count, 7), dtype=torch.int64)
    output = ModelOutput(
        image=normal(rows, DIM),
        text=normal(rows, DIM),
        patches=normal(rows, 4, DIM),
        patch_attention=torch.tensor(rng.random((rows, 4)), dtype=dtype),
        grid=Grid((2, 2), (4.0, 4.0), (2.0, 2.0)),
        words=normal(rows, 5, DIM),
        word_mask=word_mask,
        word_attention=attention,
        tokens=normal(rows, 7, DIM),
        phrases=normal(count, DIM),
        prompts=normal(2 * (len(FINDINGS) + 3), DIM),
        logit_scale=torch.tensor([10.0], dtype=dtype),
        logit_bias=torch.tensor([-3.0], dtype=dtype),
        text_view=normal(rows, DIM),
        masked_patches=normal(rows, 4, DIM),
        patch_mask=torch.tensor(np.arange(4) < 2).expand(rows, 4),
    )
    batch = Batch(
        image=torch.tensor(rng.integers(0, 256, (rows, 1, 8, 8)), dtype=torch.uint8),
        text=Tokens(ids=blank, mask=blank == 0, words=blank),
        group=ids([[1, 11], [2, 12], [3, 11], [4, 14], [5, 15], [4, 16]])[torch.arange(rows) % 6],
        keys=[f"sample-{index}" for index in range(rows)],
        labels=torch.tensor([[1, 0], [0, 1], [1, -1], [-2, -2], [1, 1], [0, 0]], dtype=torch.int8)[
            torch.arange(rows) % 6
        ],
        label_names=("a", "b"),
        spans=Spans(
            start=ids(start),
            end=ids(start + rng.integers(1, 4, count)),
            owner=ids(owners),
            code=ids(CODES[:count]),
            assertion=ids([1, 1, 1, 0, 1, 1, 1][:count]),
        ),
        phrases=Phrases(
            tokens=Tokens(ids=short, mask=short == 0, words=short),
            owner=ids(owners),
            code=ids(CODES[:count]),
        ),
        prompts=Prompts(
            tokens=Tokens(ids=blank[:1], mask=blank[:1] == 0, words=blank[:1]),
            rows=torch.zeros(2 * (len(FINDINGS) + 3), dtype=torch.int64),
            findings=[*FINDINGS, "effusion", "effusion", "edema"],
            asserted=torch.tensor(rng.choice([1, 0, -1, -2], (rows, len(FINDINGS) + 3)), dtype=torch.int8),
        ),
        extras={
            "text_labels": torch.tensor(rng.choice([1, 0, -1, -2], (rows, 2)), dtype=torch.int8),
            "category": ids(rng.integers(0, 4, rows)),
        },
        cursor=96,
    )
    add_places(output, batch, seed, bare, dtype)
    if bare:
        assert batch.labels is not None and batch.prompts is not None
        batch.labels[2:], batch.prompts.asserted[2:] = -2, -2
        batch.extras["category"][2:] = 0
    return output, batch


def add_places(output: ModelOutput, batch: Batch, seed: int, bare: bool, dtype: torch.dtype) -> None:
    """Add the organs and depths of some samples, and what the model makes of their sentences.

    Of the organs the first is abnormal in some, the second has equal texts, the third is normal in all, the last is one
    sample's; one row has no entry at all.
    """
    rows = len(batch)
    rng = np.random.default_rng((seed, 1))
    found = [(0, 0, 7, 1), (1, 0, 5, 0), (0, 1, 3, 0), (1, 1, 3, 0), (0, 2, 2, 1), (2, 0, 8, 1), (2, 2, 2, 1)]
    found += [(rows - 1, 0, 9, 1), (rows - 1, 1, 4, 1), (rows - 1, 3, 6, 0), (3, 0, 5, 0)]
    found = [entry for entry in found if entry[0] < (2 if bare else rows)]
    owner, organ, code, normal = torch.tensor(found, dtype=torch.int64).T
    cells = torch.tensor(rng.random((len(found), 4)) < 0.5)
    cells[torch.arange(len(found)), torch.tensor(rng.integers(0, 4, len(found)))] = True
    blank = torch.zeros((len(found), 7), dtype=torch.int64)
    tokens = Tokens(ids=blank, mask=blank == 0, words=blank)
    batch.extras["organs"] = Organs(
        owner=owner, tokens=tokens, organ=organ, code=code, normal=normal.bool(), cells=cells
    )
    high = torch.tensor(rng.choice([4.5, 16.0], len(found)))
    batch.extras["depths"] = Depths(
        owner=owner.flip(0),
        tokens=tokens,
        place=torch.tensor(rng.uniform(0, 1, len(found))) * high,
        unit=torch.tensor(rng.uniform(2, 4, len(found))),
        seen=torch.stack([torch.zeros(len(found), dtype=torch.float64), high], 1),
    )
    for name in ("organs", "depths"):
        output.extras[name] = torch.tensor(rng.normal(size=(len(found), DIM)), dtype=dtype)


def entries_of(ragged: Ragged, kept: list[int], place: Callable[[int], int]) -> Ragged:
    """Return some entries, with the rows that `place` says in the place of theirs."""
    index = torch.tensor(kept, dtype=torch.int64)
    changed: dict[str, Any] = {
        item.name: value[index]
        for item in dataclasses.fields(ragged)
        if isinstance(value := getattr(ragged, item.name), Tensor)
    }
    owner = torch.tensor([place(int(row)) for row in changed.pop("owner")], dtype=torch.int64)
    return dataclasses.replace(ragged, owner=owner, **changed)


def part(output: ModelOutput, batch: Batch, start: int, stop: int) -> tuple[ModelOutput, Batch]:
    """Return the rows [start, stop) as a rank would hold them: own mentions, owners counted anew, words cut to its widest."""
    rows = stop - start
    assert batch.spans is not None and batch.phrases is not None and batch.prompts is not None
    own = (batch.spans.owner >= start) & (batch.spans.owner < stop)
    changed: dict[str, Any] = {}
    extras: dict[str, Any] = {}
    for name, value in batch.extras.items():
        kept = None
        if isinstance(value, Ragged):
            kept = [place for place, row in enumerate(value.owner.tolist()) if start <= row < stop]
            if f"extras.{name}" in output.tensors():
                own_rows = output.extras[name][torch.tensor(kept, dtype=torch.int64)]
                changed[f"extras.{name}"] = own_rows if kept else output.extras[name].new_zeros(0, DIM)
        extras[name] = value[start:stop] if kept is None else entries_of(value, kept, lambda row: row - start)
    for name, value in output.tensors().items():
        if name not in ("prompts", "phrases", "logit_scale", "logit_bias", *BY_ENTRY):
            changed[name] = value[start:stop]
    width = int(changed["word_mask"].sum(1).max())
    for name in ("words", "word_mask", "word_attention"):
        changed[name] = changed[name][:, :width]
    if output.phrases is not None:  # a model makes empty outputs out of nothing: without a graph
        changed["phrases"] = output.phrases[own] if own.any() else output.phrases.new_zeros(0, DIM)
    spans = {
        item.name: getattr(batch.spans, item.name)[own] for item in dataclasses.fields(Spans) if item.name != "dropped"
    }
    spans["owner"] = spans["owner"] - start
    cut = dataclasses.replace(
        batch,
        image=batch.image[start:stop],
        text=Tokens(
            ids=batch.text.ids[start:stop], mask=batch.text.mask[start:stop], words=batch.text.words[start:stop]
        ),
        group=batch.group[start:stop],
        keys=batch.keys[start:stop],
        labels=batch.labels[start:stop] if batch.labels is not None else None,
        spans=Spans(**spans),
        phrases=dataclasses.replace(batch.phrases, owner=spans["owner"], code=spans["code"]),
        prompts=dataclasses.replace(batch.prompts, asserted=batch.prompts.asserted[start:stop]),
        extras=extras,
        has_text=batch.has_text and batch.has_text[start:stop],
    )
    assert len(cut) == rows
    return dataclasses.replace(output, **changed), cut


def permuted(output: ModelOutput, batch: Batch, order: list[int]) -> tuple[ModelOutput, Batch]:
    """Return the same samples in another order; mentions stay where they are and follow their owners."""
    index = torch.tensor(order)
    place = torch.argsort(index)
    changed: dict[str, Any] = {
        name: value[index]
        for name, value in output.tensors().items()
        if name not in ("prompts", "phrases", "logit_scale", "logit_bias", *BY_ENTRY)
    }
    extras: dict[str, Any] = {
        name: dataclasses.replace(value, owner=place[value.owner]) if isinstance(value, Ragged) else value[index]
        for name, value in batch.extras.items()
    }
    assert batch.spans is not None and batch.phrases is not None and batch.prompts is not None
    assert batch.labels is not None
    return dataclasses.replace(output, **changed), dataclasses.replace(
        batch,
        image=batch.image[index],
        group=batch.group[index],
        keys=[batch.keys[one] for one in order],
        labels=batch.labels[index],
        spans=dataclasses.replace(batch.spans, owner=place[batch.spans.owner]),
        phrases=dataclasses.replace(batch.phrases, owner=place[batch.phrases.owner]),
        prompts=dataclasses.replace(batch.prompts, asserted=batch.prompts.asserted[index]),
        extras=extras,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One recipe line under test.

    `oracle(output, batch, parameters)` gets numpy arrays and returns the loss; `reaches` names the outputs that must get a
    gradient; `single` is the error that a batch of one must raise, None where it must work; `magnitude` scales the tolerance
    of fp32 where the logits, and with them their rounding, are large; `exact` is how close value and oracle are in fp64;
    `grid` has the four patches of volumes.
    """

    name: str
    tree: Mapping[str, Any]
    oracle: Callable[[Any, Batch, dict[str, np.ndarray]], float] | None = None
    reaches: tuple[str, ...] = ("image", "text")
    single: str | None = None
    magnitude: float = 1.0
    prompts: slice | None = None
    exact: float = 1e-9
    grid: Grid | None = None

    def build(self, dtype: torch.dtype = torch.float64) -> ObjectiveSum:
        torch.manual_seed(0)
        return build_objectives([dict(self.tree)], DIM).to(dtype)

    def world(self, rows: int = 6, seed: int = 0, **options: Any) -> tuple[ModelOutput, Batch]:
        """Return `make`'s world with the prompts that this case asks for."""
        output, batch = make(rows, seed, **options)
        if self.grid is not None:
            output.grid = self.grid
            batch.image = batch.image.to(dtype=torch.float32).view(rows, 1, 4, 4, 4)
        if self.prompts is not None:
            assert batch.prompts is not None and output.prompts is not None
            affirm, deny = output.prompts.chunk(2)
            output.prompts = torch.cat([affirm[self.prompts], deny[self.prompts]])
            batch.prompts.findings = batch.prompts.findings[self.prompts]
            batch.prompts.asserted = batch.prompts.asserted[:, self.prompts]
        return output, batch


def with_gradients(output: ModelOutput) -> tuple[ModelOutput, dict[str, Tensor]]:
    """Return the output with each floating tensor a leaf that collects its gradient, and those leaves by field."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in output.tensors().items()
        if value.is_floating_point()
    }
    return dataclasses.replace(output, **leaves), leaves


def loss_and_gradients(
    case: Case,
    dtype: torch.dtype,
    *,
    bare: bool = False,
    rank: int = 0,
    shares: list[int] | None = None,
    training: bool = True,
    missing: tuple[int, ...] = (),
) -> dict[str, Tensor]:
    """Return loss and gradients of inputs and owned parameters; with `shares` (rows of each rank) those of this rank.

    The rows `missing` have no text.
    """
    objective = case.build(dtype).train(training)
    output, batch = case.world(bare=bare, dtype=dtype)
    if missing:
        batch.has_text = [row not in missing for row in range(len(batch))]
    output, leaves = with_gradients(output)
    if shares is not None:
        start = sum(shares[:rank])
        output, batch = part(output, batch, start, start + shares[rank])
    losses: Losses = objective(output, batch, 0.5)
    losses.total.backward()
    found = {"loss": losses.total.detach()}
    for name, leaf in (*leaves.items(), *objective.named_parameters()):
        found[name] = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
    return found
