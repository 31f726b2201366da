"""Where the cells of a tower's feature map sit on its input, followed through every strided layer of a forward pass.

Odd kernels and "same" padding put a cell's centre somewhere else than an up-sampling would believe; measured once, the
difference cost 20 points of pointing accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlp.batch import Grid
from vlp.core.config import ConfigError
from vlp.core.errors import first_line

R = TypeVar("R")
Shape = tuple[int, ...]
Axis = tuple[float, float]
"""Stride and offset of a map along one axis: the centre of cell i is at offset + stride * i, on edges."""


def trace_tower(tower: nn.Module, run: Callable[[Tensor], tuple[Shape, R]], image: Tensor, what: str) -> tuple[Grid, R]:
    """Return the grid of a tower on an image or volume, and what `run` returns beside the map's shape.

    The library's model is run here for the first time, so this is where one that takes other inputs, has no such stage or
    size, or gives random features (masks, sampled patches) is found out: a ConfigError, with `what` it is.
    """
    before = torch.get_rng_state()
    size, found = tuple(image.shape[2:]), []

    def shape() -> Shape:
        found.append(run(image))
        return found[0][0]

    try:
        grid = trace_grid(tower, shape, size)
    except Exception as error:
        things = "images of {} pixels" if len(size) == 2 else "volumes of {} voxels"
        raise ConfigError(
            f"model.image: {what} does not run on {things.format(' x '.join(map(str, size)))}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not torch.equal(before, torch.get_rng_state()):
        raise ConfigError(
            f"model.image: {what} draws random numbers in eval mode: one image has other features each time"
        )
    assert grid is not None
    return grid, found[0][1]


def to_map(final: Tensor, prefix: int, layout: str) -> Tensor:
    """Return the final features of a library's model, tokens or a map, as a map [B, C, h, w]; ValueError for no square."""
    if final.dim() != 3:
        return final.permute(0, 3, 1, 2) if layout == "NHWC" else final
    cells = final[:, prefix:]
    side = math.isqrt(cells.shape[1])
    if side * side != cells.shape[1]:
        raise ValueError(f"{cells.shape[1]} patch tokens are no square")
    return cells.transpose(1, 2).reshape(cells.shape[0], cells.shape[2], side, side)


def trace_grid(tower: nn.Module, run: Callable[[], Shape | None], size: Shape) -> Grid | None:
    """Return the grid of the map whose shape `run` returns, None where it has no map.

    `run` puts a batch of images or volumes of `size` through `tower`; convolutions and pooling layers are watched on the
    way. Maps that shrink in other ways (patch merging by reshaping) are taken to merge whole blocks, whose centre is the
    block's.
    """
    axes = range(len(size))
    known: list[dict[int, Axis]] = [{side: (1.0, 0.5)} for side in size]
    spans: list[dict[int, float]] = [{} for _ in size]

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = inputs[0] if inputs else None
        if not isinstance(before, Tensor) or not isinstance(output, Tensor):
            return
        if before.dim() != len(size) + 2 or output.dim() != len(size) + 2:
            return
        for axis in axes:
            here, there = before.shape[2 + axis], output.shape[2 + axis]
            step = _step(module, axis, here)
            if step is None or here not in known[axis] or (here == there and step[1] == 1):
                continue
            kernel, stride, shift = step
            if there in known[axis] and spans[axis].get(there, math.inf) >= kernel:
                continue  # a shortcut beside the main path: the larger kernel speaks
            old_stride, old_offset = known[axis][here]
            known[axis][there] = (old_stride * stride, old_offset + old_stride * shift)
            spans[axis][there] = kernel

    hooks = [module.register_forward_hook(watch) for module in tower.modules() if not isinstance(module, nn.Sequential)]
    was_training = tower.training
    tower.eval()
    try:
        with torch.no_grad():
            shape = run()
    finally:
        for hook in hooks:
            hook.remove()
        tower.train(was_training)
    if shape is None:
        return None
    found = [_resolve(known[axis], shape[axis], size[axis]) for axis in axes]
    return Grid(tuple(shape), tuple(stride for stride, _ in found), tuple(offset for _, offset in found))


def _resolve(known: dict[int, Axis], cells: int, size: int) -> Axis:
    if cells in known:
        return known[cells]
    larger = min((count for count in known if count > cells), default=size)
    stride, offset = known.get(larger, (size / larger, size / larger / 2))
    block = larger / cells
    return stride * block, offset + stride * (block - 1) / 2


def _pair(value: Any, axis: int) -> float:
    return float(value[axis] if isinstance(value, (tuple, list)) else value)


def _step(module: nn.Module, axis: int, length: int) -> tuple[float, float, float] | None:
    """Return kernel extent, stride, and how far the first window's centre lies from the first input's, in input cells."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d)):
        dilation = _pair(module.dilation, axis)
    elif isinstance(module, (nn.AvgPool2d, nn.AvgPool3d)):
        dilation = 1.0
    elif type(module).__name__ == "BlurPool2d":  # timm's: pads by reflection, then convolves functionally
        kernel, stride = float(module.filt_size), float(module.stride)  # type: ignore[arg-type]
        left = float(module.padding[0]) if isinstance(module.padding, (list, tuple)) else (kernel - stride) / 2
        return kernel, stride, (kernel - 1) / 2 - left
    else:
        return None
    extent = dilation * (_pair(module.kernel_size, axis) - 1) + 1
    stride = _pair(module.stride if module.stride is not None else module.kernel_size, axis)
    if type(module).__name__.endswith("Same") or module.padding == "same":
        # TensorFlow's padding: as much as is needed for this length, the odd one at the end
        left = max((math.ceil(length / stride) - 1) * stride + extent - length, 0) // 2
    elif isinstance(module.padding, str):
        left = 0.0
    else:
        left = _pair(module.padding, axis)
    return extent, stride, (extent - 1) / 2 - left
