"""Tables of positions on another grid: interpolated, their special tokens kept apart, from a plane to a volume too."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..towers.base import ImageTower, Tower
from .names import Part


def place_positions(wanted: Mapping[str, Part], found: Mapping[str, Part], tower: Tower) -> dict[str, Part]:
    """Return an image's position table interpolated, or a text's cut, and the class token with a position of its own added.

    Empty where the table does not fit: positions that were never trained would be noise.
    """
    from timm.layers import resample_abs_pos_embed

    if "pos" not in wanted or "pos" not in found:
        return {}
    target, value = wanted["pos"].value, found["pos"].value.float()
    table, shape = value.reshape(-1, value.shape[-1]), target.shape
    length, width = target.reshape(-1, target.shape[-1]).shape
    if table.shape[1] != width:
        return {}
    if not isinstance(tower, ImageTower):
        return {"pos": Part(found["pos"].name, table[:length].reshape(shape))} if len(table) >= length else {}
    old, new = _grids(len(table), length, found, wanted, tower)
    if old is None or new is None:
        return {}
    before, after = len(table) - math.prod(old), length - math.prod(new)
    if len(old) == 3:
        placed = torch.cat([table[:before], resize_positions(table[before:], old, new)])
    else:
        placed = resample_abs_pos_embed(  # as transformers does: with registers it is anti-aliased
            table[None], list(new[-2:]), list(old), num_prefix_tokens=before, antialias="registers" in found
        )[0]
        if len(new) == 3:
            placed = torch.cat([placed[:before], inflate_positions(placed[before:], new)])
    moved: dict[str, Part] = {}
    if after > before:
        placed = torch.cat([torch.zeros(after, width), placed])
    elif before > after:
        if "cls" in wanted and "cls" in found:  # the class token carries its position itself
            cls = found["cls"].value.reshape(1, width) + placed[:before]
            moved["cls"] = Part(found["cls"].name, cls.reshape(wanted["cls"].value.shape))
        placed = placed[before:]
    return {**moved, "pos": Part(found["pos"].name, placed.reshape(shape))}


def _grids(
    length: int, own_length: int, found: Mapping[str, Part], wanted: Mapping[str, Part], tower: ImageTower
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the grids of cells of the file's position table and of the tower's, None for one that cannot be told."""
    if tower.takes == "image":
        return _square(length, "cls" in found), _square(own_length, "cls" in wanted)
    own = tower.grid.shape
    if "patch.weight" in found and found["patch.weight"].value.dim() == 4:
        return _square(length, "cls" in found), own
    given = tower.pretrained_grid
    options = (grid_of(length - count, given, own) for count in ((1, 0) if "cls" in found else (0, 1)))
    return next((grid for grid in options if grid is not None), None), own


def _square(length: int, has_class: bool) -> tuple[int, ...] | None:
    """Return the square of cells in a table, beside a position of the class token or not; None where there is no square."""
    for count in (1, 0) if has_class else (0, 1):
        side = math.isqrt(length - count)
        if side**2 == length - count:
            return side, side
    return None


def inflate_positions(cells: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return positions of a plane's cells [h * w, C], already of its size, for every plane of a grid -> [P, C].

    Planes differ by a sine and cosine of their index, as large as the positions themselves; their mean is the plane's.
    """
    depth, width = grid[0], cells.shape[1]
    rate = 10000 ** (-torch.arange(math.ceil(width / 2)) / math.ceil(width / 2))
    angle = torch.arange(depth).unsqueeze(1) * rate
    planes = torch.cat([angle.sin(), angle.cos()], 1)[:, :width]
    planes = planes - planes.mean(0)
    planes = planes * (cells.square().mean() / planes.square().mean().clamp(min=1e-12)).sqrt()
    return (planes.unsqueeze(1) + cells).flatten(0, 1)


def resize_positions(cells: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Return positions of cells [P, C] on another grid, trilinear between the cells' centres."""
    table = cells.T.reshape(1, cells.shape[1], *old)
    placed: Tensor = F.interpolate(table, size=new, mode="trilinear", align_corners=False)
    return placed.flatten(2)[0].T


def grid_of(count: int, given: tuple[int, ...] | None, own: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the grid of a 3-D position table: as given, else the tower's own where it has as many, else a cube."""
    if given is not None:
        return given if math.prod(given) == count else None
    if math.prod(own) == count:
        return own
    side = round(count ** (1 / 3))
    return (side, side, side) if side**3 == count else None
