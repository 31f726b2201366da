"""Depth: a sentence must be found at the height of the volume at which its finding lies.

RadFinder's depth localisation, slices of a CT against the snippets of its report, by its released code as it was read in 2026.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor

from vlp.batch import Batch, Grid, Losses, ModelOutput
from vlp.core.config import ConfigError, config
from vlp.needs.depths import Depths, DepthSettings

from .base import NotNegative, Objective, Positive, l2_normalize, mean_over_ranks, objectives
from .functional.patch_pooling import by_chunks
from .functional.tiled import MASKED

NEED = "extras.depths"


@config
class DepthConfig:
    temperature: Positive = 0.1
    sigma: NotNegative = 24.0
    pool: Literal["mean", "max"] = "mean"
    renormalise: bool = True
    levels: Mapping[str, str] = field(default_factory=dict)


@objectives.register("depth")
class Depth(Objective[DepthConfig]):
    """`L = mean_t -sum_d g_td log softmax_d(cos(e_d, t) / τ)` over the sentences whose depth is known.

    e_d: the mean of the patches of depth plane d (`pool: max`: the best of their cosines instead). g: a Gaussian around the
    true depth, of deviation `sigma` millimetres, out to three deviations. Planes that show nothing of the volume are left out
    of the softmax, and of g, whose rest sums to 1 again; `renormalise: false` leaves it as it is. `levels`: words of a level
    (`carina`, `T5`) and the mask at whose middle it lies; boxes with phrases need none.

    How the released code differs: sigma is 2 positions of 12 mm, and g is not renormalised where planes are masked; its
    weight is .004. The true depth is the middle of a plane there, and anywhere here.
    """

    needs = frozenset({"patches", NEED})
    batch_coupled = True  # through the number of sentences, which differs between parts of a batch

    def need_settings(self) -> dict[str, Any]:
        return {NEED: DepthSettings(self.config.levels)}

    def loss(self, output: ModelOutput, batch: Batch) -> Losses:
        config, patches, grid = self.config, output.patches, output.grid
        entries, texts = batch.extras["depths"], output.extras["depths"]
        assert isinstance(entries, Depths) and patches is not None
        if grid is None or len(grid.shape) != 3 or len(texts) != len(entries.owner):
            raise ConfigError(
                f"objective {self.name!r}: {len(entries.owner)} sentences and {len(texts)} embeddings on a grid of "
                f"{grid and list(grid.shape)}: it needs volumes, and a model that was built with this objective's needs"
            )
        planes = patches.reshape(len(patches), grid.shape[0], grid.cells // grid.shape[0], patches.shape[2])
        if config.pool == "mean":
            cosines = torch.linalg.vecdot(l2_normalize(planes.mean(2))[entries.owner], l2_normalize(texts)[:, None])
        else:
            held = 2 * len(texts) * patches.shape[1] * patches.shape[2]
            cosines = by_chunks(best_cosines, (entries.owner, l2_normalize(texts)), (l2_normalize(planes),), held)
        target, shown = depth_target(entries, grid, config.sigma, config.renormalise)
        target, counted = target.to(cosines), target.sum(1) > 0
        logs = torch.log_softmax((cosines / config.temperature).masked_fill(~shown, MASKED), 1)
        losses = -(target * logs.masked_fill(~shown, 0.0)).sum(1)
        return Losses(mean_over_ranks(losses, counted) + 0 * output.image.sum())


def best_cosines(owner: Tensor, texts: Tensor, planes: Tensor) -> Tensor:
    """Return [T, d]: the largest cosine of each text [T, D] with the cells of each plane of its sample, unit vectors."""
    return (planes[owner] @ texts[:, None, :, None]).squeeze(3).amax(2)


def depth_target(entries: Depths, grid: Grid, sigma: float, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Return the targets [T, d] over a grid's depth planes, fp64, and which planes show something of the volume, bool [T, d].

    `sigma` in millimetres. A plane shows what its middle lies in. The Gaussian is cut off at floor(3 sigma + 1/2) planes
    from the one that is nearest.
    """
    place, unit, seen = (values.double() for values in (entries.place, entries.unit, entries.seen))
    steps = torch.arange(grid.shape[0], device=place.device)
    middles = grid.offset[0] + grid.stride[0] * steps
    shown = (middles >= seen[:, :1]) & (middles <= seen[:, 1:])
    position = (place - grid.offset[0]) / grid.stride[0]
    nearest = position.round().clamp(0, grid.shape[0] - 1)
    deviation = (sigma / (unit * grid.stride[0]))[:, None]
    within = (steps - nearest[:, None]).abs() <= (3 * deviation + 0.5).floor()
    exponent = -((steps - position[:, None]) / deviation.clamp(min=1e-6)).square() / 2
    target = torch.softmax(exponent.masked_fill(~within, -math.inf), 1) * shown
    if renormalise:
        target = target / target.sum(1, keepdim=True).clamp(min=1e-12)
    return target, shown
