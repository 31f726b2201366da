"""The patches of an image of which some are blanked out, for masked image modelling."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Batch, Grid, ModelOutput

from .base import Features, Model, Need, needs


@needs.register("masked_patches")
class MaskedPatches(Need):
    """`ModelOutput.masked_patches` [B, P, D], of images with the pixels of `patch_mask` [B, P] at the mean, and `grid`."""

    hint = "choose an image tower that returns a feature map (model.image)"
    uses = frozenset({"patch_head"})

    def compute(self, model: Model, batch: Batch, features: Features, output: ModelOutput) -> None:
        grid = model.grid_of(batch.image)
        output.patch_mask = draw_mask(batch, grid, model.mask_share).to(output.image.device, non_blocking=True)
        output.masked_patches = model.embed_patches(blank(model.normalise(batch.image), output.patch_mask, grid))
        output.grid = grid


def draw_mask(batch: Batch, grid: Grid, share: float) -> Tensor:
    """Return which patches are blanked out, bool [B, P]: a function of each sample's key and of the batch's cursor."""
    count = grid.cells
    mask = np.zeros((len(batch), count), bool)
    for row, key in enumerate(batch.keys):
        seed = hashlib.blake2b(f"{key}|{batch.cursor}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(seed, "little")).permutation(count)
        mask[row, order[: round(share * count)]] = True
    return torch.from_numpy(mask)


def blank(pixels: Tensor, mask: Tensor, grid: Grid) -> Tensor:
    """Return normalised images [B, C, S, S] or volumes [B, C, D, H, W] with what the masked patches show at the mean."""
    holes = mask.view(-1, 1, *grid.shape).to(pixels.dtype)
    return pixels * (1 - F.interpolate(holes, size=pixels.shape[2:], mode="nearest"))
