"""All that the harness knows of a model: images in, texts in, rows out.

An embedder is always called with the same number of rows (the cache pads the last ones), so that a row's value does not
depend on how many came with it: arithmetic in another shape may take another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlp.batch import Grid


Floats = NDArray[np.float32]
TEXT_ROWS = 32
"""Texts are always encoded so many at a time: a row then depends on its text, not on the texts beside it."""


@dataclass(frozen=True)
class Card:
    """What a result says of its model; `fingerprint` stands for the weights and everything that changes an embedding."""

    name: str
    kind: str
    weights_sha256: str
    fingerprint: str
    dim: int
    image_spec: dict[str, Any]
    grid: tuple[Any, ...] | None = None  # (*shape, stride, offset)
    params: int | None = None
    step: int | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    device: str = "cpu"
    dtype: str = "float32"
    trained_on: tuple[dict[str, Any], ...] | None = None
    """What is known of the training data (`overlap.training_of`); None: nothing."""


@dataclass(frozen=True)
class Tower:
    """An image tower with gradients: `encode` maps normalised images [n, C, S, S] to embeddings [n, D]; `module` holds it."""

    module: torch.nn.Module
    encode: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    device: str = "cpu"


class Embedder(Protocol):
    """The seam: implement this, and `--model your_module:factory` scores your model.

    A model may have two methods more: `tower()`, for saliency maps (see `saliency.Tower`), and `parts(texts, spans)`, the
    mean [n, D] of the word features of characters `[start, end)` of each text, in the space of the patches.
    """

    card: Card

    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[int, int]]:
        """Return the model's input [C, S, S] of an encoded image, and the image's height and width."""

    def images(self, inputs: NDArray[Any], patches: bool) -> tuple[Floats, Floats | None]:
        """Return embeddings [n, D] of inputs [n, C, S, S] and, when asked and able, patch features [n, P, D]."""

    def texts(self, texts: Sequence[str]) -> Floats:
        """Return embeddings [n, D], not normalised."""


def state_digest(module: torch.nn.Module) -> str:
    """Return a sha256 of a module's tensors by name, independent of the file they came from."""
    import torch

    stamp = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        stamp.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        stamp.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return stamp.hexdigest()


def card_of(
    model: torch.nn.Module,
    *,
    name: str,
    kind: str,
    reads: Sequence[str],
    dim: int,
    image_spec: dict[str, Any],
    grid: Grid | None,
    device: str,
    step: int | None = None,
) -> Card:
    """Return the card of a dual encoder; `reads` stands for how it is given images and texts (transform, tokenizer)."""
    weights, own = state_digest(model), dict(model.named_parameters())
    scale, bias = own.get("logit_scale"), own.get("logit_bias")
    return Card(
        name=name,
        kind=kind,
        weights_sha256=weights,
        fingerprint=fingerprint(weights, *reads),
        dim=dim,
        image_spec=image_spec,
        grid=(*grid.shape, grid.stride, grid.offset) if grid else None,
        params=sum(tensor.numel() for tensor in own.values()),
        step=step,
        logit_scale=float(scale.detach().exp()) if scale is not None else None,
        logit_bias=float(bias.detach()) if bias is not None else None,
        device=device,
    )


def fingerprint(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]


def to_rows(tensor: torch.Tensor) -> Floats:
    """Return a tensor as float32 numpy, checked to be finite. Raises ConfigError for NaN or infinity."""
    rows: Floats = tensor.detach().float().cpu().numpy()
    if not np.isfinite(rows).all():
        raise ConfigError(f"the model returns NaN or infinite embeddings ({int((~np.isfinite(rows)).sum())} values)")
    return rows


def encode_in_blocks(encode: Callable[[list[str]], Floats], texts: Sequence[str], dim: int) -> Floats:
    """Return `encode` of texts [n, dim], which is given TEXT_ROWS at a time; a short block is filled with its first text."""
    blocks = []
    for start in range(0, len(texts), TEXT_ROWS):
        part = list(texts[start : start + TEXT_ROWS])
        blocks.append(encode(part + part[:1] * (TEXT_ROWS - len(part)))[: len(part)])
    return np.concatenate(blocks) if blocks else np.zeros((0, dim), np.float32)
