"""A dual encoder of a few hundred parameters and random batches for it: engines do not care what they train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Grid, ModelOutput, Phrases, Prompts, Spans, Tokens
from vlp.needs.depths import Depths
from vlp.needs.organs import Organs
from vlp.objectives import build_objectives
from vlp.sample import concept_code
from vlp.train.train_step import TrainStep

WIDTH, VOCABULARY, SIDE, LENGTH = 8, 20, 6, 7
FINDINGS = ("nodule", "effusion", "edema")
PLACES = {"left": ("left", None), "right": ("right", None)}
CODES = [concept_code(finding, *place) for finding in FINDINGS for place in PLACES.values()]


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(torch.tanh(self.linear(self.norm(x))))


class Toy(nn.Module):
    """Patches of 3x3 pixels through two blocks; tokens embedded, through one, averaged. Everything an output can hold."""

    def __init__(
        self,
        dropout: float = 0.0,
        scale: tuple[float, float | None] | None = None,
        masks: bool = False,
        has_depth: bool = False,
    ) -> None:
        super().__init__()
        self.masks, self.has_depth = masks, has_depth
        self.image = nn.Sequential(nn.Linear(9, WIDTH), nn.Sequential(Block(dropout), Block(dropout)))
        self.text = nn.ModuleDict({"embed": nn.Embedding(VOCABULARY, WIDTH), "block": Block(dropout)})
        if scale is not None:
            self.logit_scale = nn.Parameter(torch.tensor([scale[0]]))
            if scale[1] is not None:
                self.logit_bias = nn.Parameter(torch.tensor([scale[1]]))

    def states(self, tokens: Tokens) -> Tensor:
        return self.text["block"](self.text["embed"](tokens.ids))

    def pooled(self, tokens: Tokens, states: Tensor) -> Tensor:
        weight = tokens.mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1).clamp(min=1)

    def encode(self, tokens: Tokens) -> Tensor:
        return self.pooled(tokens, self.states(tokens))

    def cells(self, image: Tensor) -> Tensor:
        cells = image.float().unfold(2, 3, 3).unfold(3, 3, 3).flatten(4).flatten(2, 3).squeeze(1)
        return (cells / 255).to(self.text["embed"].weight.dtype)

    def forward(self, batch: Batch) -> ModelOutput:
        cells = self.cells(batch.image)
        patches = self.image(cells)
        blank = torch.tensor([len(key) + int(key[-1]) for key in batch.keys])[:, None] % 4 == torch.arange(4)
        states = self.states(batch.text)
        words = int(batch.text.words.max()) + 1
        owner = nn.functional.one_hot(batch.text.words + 1, words + 1)[..., 1:].to(states.dtype)
        scale = getattr(self, "logit_scale", None)
        return ModelOutput(
            image=patches.mean(1),
            text=self.pooled(batch.text, states),
            patches=patches,
            grid=Grid((2, 2, 1), (3.0,) * 3, (1.5,) * 3) if self.has_depth else Grid((2, 2), (3.0, 3.0), (1.5, 1.5)),
            words=owner.transpose(1, 2) @ states,
            word_mask=owner.sum(1) > 0,
            tokens=states,
            phrases=self.encode(batch.phrases.tokens) if batch.phrases is not None else None,
            prompts=self.encode(batch.prompts.tokens)[batch.prompts.rows] if batch.prompts is not None else None,
            logit_scale=None if scale is None else scale.exp().clamp(1, 100),
            logit_bias=getattr(self, "logit_bias", None),
            text_view=None if batch.text_view is None else self.encode(batch.text_view),
            masked_patches=self.image(cells.masked_fill(blank[..., None], 0.0)) if self.masks else None,
            patch_mask=blank if self.masks else None,
            extras={
                name: self.encode(value.tokens)
                for name, value in batch.extras.items()
                if isinstance(value, (Organs, Depths))
            },
        )


def tokens(rows: int, generator: torch.Generator) -> Tokens:
    lengths = torch.randint(2, LENGTH + 1, (rows, 1), generator=generator)
    place = torch.arange(LENGTH).expand(rows, LENGTH)
    mask = place < lengths
    ids = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator) * mask
    words = torch.where(mask, place // 2, -1)
    return Tokens(ids=ids, mask=mask, words=words)


def batch(rows: int = 8, seed: int = 0) -> Batch:
    """Return a batch with spans, phrases in a jumbled order (one row has none) and prompts."""
    generator = torch.Generator().manual_seed(seed)
    text = tokens(rows, generator)
    owner = torch.tensor([row for row in range(rows) if row != 2 for _ in range(1 + row % 2)])
    code = torch.tensor(CODES)[torch.randint(0, len(CODES), owner.shape, generator=generator)]
    jumbled = torch.randperm(len(owner), generator=generator)
    return Batch(
        image=torch.randint(0, 256, (rows, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator),
        text=text,
        group=torch.stack([torch.arange(rows) // 2 * 100 + seed, torch.arange(rows)], 1),
        keys=[f"sample-{seed}-{row}" for row in range(rows)],
        spans=Spans(
            start=torch.zeros_like(owner),
            end=torch.ones_like(owner),
            owner=owner,
            code=code,
            assertion=torch.ones_like(owner),
        ),
        phrases=Phrases(tokens=tokens(len(owner), generator), owner=owner[jumbled], code=code[jumbled]),
        prompts=Prompts(
            tokens=tokens(2 * len(FINDINGS), torch.Generator().manual_seed(99)),
            rows=torch.arange(2 * len(FINDINGS)),
            findings=list(FINDINGS),
            asserted=torch.randint(-2, 2, (rows, len(FINDINGS)), generator=generator).to(torch.int8),
        ),
        labels=torch.randint(-2, 2, (rows, len(FINDINGS)), generator=generator).to(torch.int8),
        label_names=FINDINGS,
        text_view=tokens(rows, generator),
        extras={
            "category": torch.randint(0, 4, (rows,), generator=generator),
            "text_labels": torch.randint(-2, 2, (rows, len(FINDINGS)), generator=generator).to(torch.int8),
            "organs": Organs(
                owner=owner[jumbled],
                tokens=tokens(len(owner), generator),
                organ=torch.arange(len(owner))[jumbled] % 2,
                code=code,
                normal=code % 3 == 0,
                cells=(torch.arange(len(owner))[:, None] + torch.arange(4)) % 3 > 0,
            ),
            "depths": Depths(
                owner=owner[jumbled],
                tokens=tokens(len(owner), generator),
                place=6 * torch.rand(owner.shape, generator=generator),
                unit=torch.full(owner.shape, 4.0),
                seen=torch.tensor([0.0, 6.0]).expand(len(owner), 2),
            ),
        },
        sources=["toy"] * rows,
    )


def shard(whole: Batch, rank: int, world: int) -> Batch:
    """Return a rank's consecutive rows."""
    from vlp.train.grad_cache import split_batch

    return split_batch(whole, world)[rank]


def step_of(kinds: Sequence[Any], dropout: float = 0.0, seed: int = 0) -> TrainStep:
    torch.manual_seed(seed)
    objectives = build_objectives(kinds, WIDTH)
    needs = objectives.needs
    toy = Toy(dropout, objectives.scale_init, "masked_patches" in needs, "extras.depths" in needs)
    return TrainStep(toy, objectives)


def fields_of(output: ModelOutput) -> dict[str, Tensor]:
    return output.tensors()
