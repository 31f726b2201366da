"""Maps for models without aligned patches: Grad-CAM, gScoreCAM and M2IB, on any layer of any image tower.

Each takes the gradient of the cosine with one text. They are slower than patch cosines by one to hundreds of passes an
image, and need the model at hand: `vlp-eval score` cannot make them from cached embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.registry import did_you_mean

from ..models.base import Tower
from ..models.patch_tokens import caught

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Method = Literal["gradcam", "gscorecam", "m2ib"]
Floats = NDArray[np.float64]
PREFIXES = (0, 1, 5, 2, 3, 4)
"""Tokens that stand before the patches: none, a class token, one with four registers, ..."""


@dataclass(frozen=True)
class Layer:
    """A place in a tower: its output is [n, C, h, w], [n, h, w, C], or tokens [n, prefix + h * w, C]."""

    name: str
    module: torch.nn.Module
    height: int
    width: int
    prefix: int | None
    channels_last: bool = False

    def cells(self, output: Tensor) -> Tensor:
        """Return an output as [n, C, h, w]."""
        if self.prefix is None:
            return output.permute(0, 3, 1, 2) if self.channels_last else output
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(len(tokens), -1, self.height, self.width)


def find_layer(tower: Tower, image: Tensor, name: str | None = None) -> Layer:
    """Return the layer called `name`, or the last one that has a spatial output and passes a gradient on.

    Raises ConfigError naming the near ones when there is none of that name, or none with a grid.
    """
    modules = dict(tower.module.named_modules())
    if name is not None and name not in modules:
        raise ConfigError(f"the image tower has no layer {name!r}{did_you_mean(name, modules)}")
    titles = {module: title for title, module in modules.items() if title and name in (None, title)}
    with caught(titles) as found:
        score = tower.encode(image.detach().clone().requires_grad_(True)).float().norm(dim=-1).sum()
    import torch

    # as timm's Swin says
    declared = any(getattr(module, "output_fmt", None) == "NHWC" for module in modules.values())
    for module, output in reversed(found):
        if not hasattr(output, "dim"):
            continue
        behind = declared and not isinstance(module, torch.nn.Conv2d)
        shape = _grid(output, behind) if len(output) == len(image) else None  # else windows of a map, not a map
        if shape is None or not output.requires_grad:
            continue
        layer = Layer(titles[module], module, *shape)
        (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
        if gradient is not None and layer.cells(gradient).abs().sum() > 0:
            return layer
    what = f"layer {name!r}" if name else "no layer of the image tower"
    raise ConfigError(f"{what} has an output with a grid that the embedding depends on; name another one")


def _grid(output: Tensor, declared: bool) -> tuple[int, int, int | None, bool] | None:
    """Return height, width, prefix and whether channels come last; `declared` decides where a shape does not say."""
    if output.dim() == 4:
        first, middle, last = output.shape[1:]
        behind = first == middle and (middle != last or declared)  # inputs are square, so maps are
        height, width = (first, middle) if behind else (middle, last)
        return (int(height), int(width), None, bool(behind)) if min(height, width) > 1 else None
    if output.dim() == 3:
        for prefix in PREFIXES:
            edge = round(max(0, output.shape[1] - prefix) ** 0.5)
            if edge > 1 and edge * edge + prefix == output.shape[1]:
                return edge, edge, prefix, False
    return None


def cells(tower: Tower, image: Tensor, text: NDArray[np.float32], method: Method, layer: Layer) -> Floats:
    """Return the map [h, w] of a text embedding [D] on one image [1, C, S, S] (as `prepare` makes it)."""
    import torch

    pixels = tower.normalise(image.to(tower.device))
    target = torch.nn.functional.normalize(torch.as_tensor(text, device=tower.device).float(), dim=0)
    function = {"gradcam": grad_cam, "gscorecam": g_score_cam, "m2ib": m2ib}[method]
    return function(tower, pixels, target, layer)


def _cosine(embedding: Tensor, target: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(embedding.float(), dim=-1) @ target


def _activations(tower: Tower, pixels: Tensor, target: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the layer's activations and the gradient of the cosine at them, both [C, h, w]."""
    import torch

    with caught([layer.module]) as found, torch.enable_grad():
        score = _cosine(tower.encode(pixels.detach().clone().requires_grad_(True)), target).sum()
        output = found[-1][1]
        (gradient,) = torch.autograd.grad(score, output)
    return layer.cells(output.detach())[0], layer.cells(gradient)[0]


def grad_cam(tower: Tower, pixels: Tensor, target: Tensor, layer: Layer) -> Floats:
    """Return ReLU(sum over channels of mean gradient x activation) (Selvaraju et al. 2017)."""
    activations, gradients = _activations(tower, pixels, target, layer)
    field = (activations * gradients.mean((1, 2), keepdim=True)).sum(0)
    return np.asarray(field.relu().double().cpu())


def g_score_cam(
    tower: Tower, pixels: Tensor, target: Tensor, layer: Layer, top: int = 300, scale: float = 100.0
) -> Floats:
    """Return ReLU of the channels weighted by the score of the image seen through each (gScoreCAM, Chen et al. 2022).

    The `top` channels by mean gradient are scaled to [0, 1] and spread over the input as masks; their weights are the
    softmax of `scale` times the cosines. One pass per channel.
    """
    import torch

    activations, gradients = _activations(tower, pixels, target, layer)
    order = gradients.mean((1, 2)).argsort(descending=True)[:top]
    channels = activations[order]
    low, high = channels.amin((1, 2), keepdim=True), channels.amax((1, 2), keepdim=True)
    masks = (channels - low) / (high - low).clamp_min(1e-8)
    size = pixels.shape[-2:]
    spread = torch.nn.functional.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
    with torch.no_grad():
        scores = torch.cat([_cosine(tower.encode(pixels * part), target) for part in torch.split(spread, 32)])
    weights = (scale * scores).softmax(0)
    return np.asarray((weights[:, None, None] * channels).sum(0).relu().double().cpu())


def m2ib(tower: Tower, pixels: Tensor, target: Tensor, layer: Layer, steps: int = 10) -> Floats:
    """Return the information [h, w] that a noise bottleneck must let through for the text (M2IB, Wang et al. 2023).

    t = l z + (1 - l) e with l = sigmoid(a), a from 5; loss = beta mean KL(N(l z, (1 - l)^2) | N(0, 1)) - cosine; Adam. The
    map is the KL summed over channels, scaled to [0, 1]. beta is .1, the rate 1; each step draws the noise ten times.
    """
    import torch

    beta, copies = 0.1, 10
    generator = torch.Generator(device="cpu").manual_seed(0)
    with caught([layer.module]) as outputs, torch.no_grad():
        tower.encode(pixels)
    signal: Tensor = outputs[-1][1].detach().float()
    alpha = torch.full_like(signal, 5.0, requires_grad=True)
    optimiser = torch.optim.Adam([alpha], lr=1.0)

    def blend(_module: Any, _inputs: Any, output: Any) -> Any:
        gate = alpha.sigmoid()
        noise = torch.randn((copies, *signal.shape[1:]), generator=generator).to(signal)
        mixed = (gate * signal + (1 - gate) * noise).to(signal.dtype)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def information() -> Tensor:
        gate = alpha.sigmoid()
        spread = (1 - gate).clamp_min(1e-6)
        return 0.5 * ((gate * signal) ** 2 + spread**2 - 1 - 2 * spread.log())

    asked = pixels.detach().clone().requires_grad_(True)  # else a frozen tower keeps no graph
    handle = layer.module.register_forward_hook(blend)
    try:
        with torch.enable_grad():
            for _ in range(steps):
                optimiser.zero_grad()
                score = _cosine(tower.encode(asked.expand(copies, -1, -1, -1)), target).mean()
                loss = beta * information().mean() - score
                torch.autograd.backward(loss)
                optimiser.step()
    finally:
        handle.remove()
    field = layer.cells(information().detach())[0].sum(0).double().cpu().numpy()
    span = float(field.max() - field.min())
    return np.asarray((field - field.min()) / span if span > 0 else field * 0)
