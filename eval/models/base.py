"""All that the harness knows of a model: images in, texts in, rows out.

An embedder is always called with the same number of rows (the cache pads the last ones), so that a row's value does not
depend on how many came with it: arithmetic in another shape may take another order.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlp.core.config import ConfigError
from vlp.core.registry import Registry

from ..data.spec import DataError
from .patch_tokens import TokenHook

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlp.batch import Grid


Floats = NDArray[np.float32]
TEXT_ROWS = 32
"""Texts are always encoded so many at a time: a row then depends on its text, not on the texts beside it."""


@dataclass(frozen=True)
class Card:
    """What a result says of its model; `fingerprint` stands for the weights and everything that changes an embedding.

    `image_spec`: what it expects of an image; of a volume it says `kind: volume`.
    """

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

    @property
    def reads_volumes(self) -> bool:
        return self.image_spec.get("kind") == "volume"


@dataclass(frozen=True)
class Tower:
    """An image tower with gradients: `encode` maps normalised images [n, C, S, S] to embeddings [n, D]; `module` holds it."""

    module: torch.nn.Module
    encode: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    device: str = "cpu"


class Embedder(Protocol):
    """All that the harness knows of a model: implement this, and `--model your_module:factory` scores your own.

    A model may have a method more: `tower()`, for saliency maps (see `Tower`).
    """

    card: Card

    @abstractmethod
    def prepare(self, image: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        """Return the model's input [C, S, S] of an encoded image, and the image's extent: its height and width.

        Of a volume the input is [C, D, H, W], and the extent its voxels and then its spacing along D, H and W.
        """

    @abstractmethod
    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, Floats]:
        """Return arrays by name, a row for each item; none is normalised. Raises DataError for what the model cannot do.

        `image`: inputs that `prepare` made -> `image` [n, D]. `patches`: the same -> `image`, and `patches` [n, P, D].
        `text`: texts -> `text` [n, D]. `words`: pairs of a text and characters `(start, end)` of it -> `words` [n, D], the
        mean of the features of these words, in the space of the patches.
        """


class DualEncoder(Embedder, ABC):
    """The embedder of a torch model: a library says how it is loaded and how images and texts go in."""

    _hook: TokenHook | None = None

    def __init__(self, model: Any, image_tower: Any, device: str) -> None:
        self._model, self._image_tower, self._device = model.to(device).eval(), image_tower, device

    @classmethod
    @abstractmethod
    def load(cls, name: str, device: str, trust: Sequence[str]) -> Embedder:
        """Load what follows the library's name in `--model`; `trust` are modules that it may name. Raises ConfigError."""

    def _images(self, pixels: Tensor) -> Tensor:
        """Return embeddings [n, D] of normalised images [n, C, S, S]."""
        rows: Tensor = self._model.encode_image(pixels)
        return rows

    def _texts(self, texts: list[str]) -> Tensor:
        """Return embeddings [n, D] of `TEXT_ROWS` texts."""
        raise NotImplementedError

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings [n, D] and patch features [n, P, D] of normalised images, of a model with a grid."""
        assert self._hook is not None
        return self._hook.run(lambda: self._images(pixels))

    def _normalise(self, inputs: Tensor) -> Tensor:
        """Return prepared images on the device as the image tower takes them."""
        return inputs

    def encode(self, modality: str, items: Sequence[Any]) -> dict[str, Floats]:
        import torch

        with torch.inference_mode():
            if modality == "text":
                return {"text": self._encode_texts(items)}
            if modality not in ("image", "patches") or (modality == "patches" and self.card.grid is None):
                raise DataError(f"{self.card.name} gives no {'patch' if modality == 'patches' else 'word'} features")
            pixels = self._normalise(torch.from_numpy(np.stack(items)).to(self._device))
            if modality == "image":
                return {"image": to_rows(self._images(pixels))}
            rows, cells = self._patches(pixels)
            return {"image": to_rows(rows), "patches": to_rows(cells)}

    def _encode_texts(self, texts: Sequence[str]) -> Floats:
        """Return embeddings [n, D], `TEXT_ROWS` texts at a time; a short block is filled with its first text."""
        blocks = []
        for start in range(0, len(texts), TEXT_ROWS):
            part = list(texts[start : start + TEXT_ROWS])
            blocks.append(to_rows(self._texts(part + part[:1] * (TEXT_ROWS - len(part))))[: len(part)])
        return np.concatenate(blocks)

    def tower(self) -> Tower:
        """Return the image tower with gradients, for saliency maps."""
        return Tower(self._image_tower, self._images, self._normalise, self._device)

    def _describe(
        self,
        kind: str,
        name: str,
        reads: Sequence[str],
        image_spec: dict[str, Any],
        grid: Grid | None,
        step: int | None = None,
    ) -> Card:
        """Return the card; `reads` stands for how the model is given images and texts (transform, tokenizer)."""
        weights, own = state_digest(self._model), dict(self._model.named_parameters())
        scale, bias = own.get("logit_scale"), own.get("logit_bias")
        return Card(
            name=name,
            kind=kind,
            weights_sha256=weights,
            fingerprint=hashlib.sha256("|".join((weights, *reads)).encode()).hexdigest()[:24],
            dim=self.encode("text", ["a"])["text"].shape[1],
            image_spec=image_spec,
            grid=(*grid.shape, grid.stride, grid.offset) if grid else None,
            params=sum(tensor.numel() for tensor in own.values()),
            step=step,
            logit_scale=float(scale.detach().exp()) if scale is not None else None,
            logit_bias=float(bias.detach()) if bias is not None else None,
            device=self._device,
        )


libraries: Registry[Any] = Registry("model library", package="vlp_eval.models")


def state_digest(module: torch.nn.Module) -> str:
    """Return a sha256 of a module's tensors by name, independent of the file they came from."""
    import torch

    stamp = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        stamp.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        stamp.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return stamp.hexdigest()


def square_spec(side: int, resize: str, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return the image specification of other libraries' square inputs."""
    numbers = {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
    return {"size": side, "channels": 3, "resize": resize, "interpolation": "bicubic", **numbers}


def to_rows(tensor: torch.Tensor) -> Floats:
    """Return a tensor as float32 numpy, checked to be finite. Raises ConfigError for NaN or infinity."""
    rows: Floats = tensor.detach().float().cpu().numpy()
    if not np.isfinite(rows).all():
        raise ConfigError(f"the model returns NaN or infinite embeddings ({int((~np.isfinite(rows)).sum())} values)")
    return rows
