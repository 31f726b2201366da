"""What a modality's processor is: all that lies between stored bytes and the batch, saved with the model's weights.

A modality is a folder here with a processor, registered by the modality's name, and towers registered under the same name
(`vlp.models.towers.base.towers_of`). Its inputs are `Batch.inputs[name]`, its embeddings `ModelOutput.pooled[name]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from vlp.core.registry import Registry

from .geometry import Geometry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Native = TypeVar("Native")
Input = TypeVar("Input")


class Processor(ABC, Generic[Native, Input]):
    """The way of one modality from bytes to a batch's input: read, eval or train, collate. It pickles.

    `Native` is what the bytes hold (pixels, voxels, a text), `Input` what `Batch.inputs[name]` is: a tensor, or a dataclass or
    dictionary of tensors, by rows.
    """

    spec: Any
    """What a tower of this modality is built for."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that changes the input that a model sees."""

    @abstractmethod
    def read(self, data: bytes) -> Native:
        """Decode stored bytes; raises ValueError for bytes that cannot be used."""

    @abstractmethod
    def eval(self, native: Native) -> tuple[Any, Geometry | None]:
        """Return a sample's input, and how the source lies on it (None for what has no place)."""

    def train(self, native: Native, augment: Any, rng: np.random.Generator) -> tuple[Any, Geometry | None]:
        """As `eval`, with the random changes of `augment`, all of which the geometry tells; by default without any."""
        return self.eval(native)

    @abstractmethod
    def collate(self, inputs: Sequence[Any]) -> Input:
        """Return samples' inputs as a batch's."""

    def batch(self, natives: Iterable[Native]) -> Input:
        """Return samples as a batch's input, without any augmentation."""
        return self.collate([self.eval(native)[0] for native in natives])

    @abstractmethod
    def example(self) -> Input:
        """Return a batch's input of one sample, to try a model with."""

    @abstractmethod
    def save(self, folder: Path | str) -> None:
        """Write the processor into a model's folder, under names of its own."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote; raises ConfigError naming the file when it is missing or wrong."""


class ImageLike(Processor[Native, "Tensor"]):
    """The processor of what takes the place of the image: one 2-D image, or a volume.

    `extent` are the numbers of a decoded sample by which `geometry(*extent)` says how it lies on the input: what is kept of
    a sample whose input is not.
    """

    Spec: ClassVar[type]
    """The class of its specification: a section of a recipe."""

    @property
    def kinds(self) -> frozenset[str]:
        """What it reads: `image`, `volume` or both, which never share a batch."""
        return frozenset({"image"})

    @abstractmethod
    def native(self, item: Any, **options: Any) -> Native:
        """Return an item as users give it (a path, bytes, an array), decoded; `options` are of reading its file."""

    @abstractmethod
    def eval(self, native: Native) -> tuple[Tensor, Geometry]: ...

    def train(self, native: Native, augment: Any, rng: np.random.Generator) -> tuple[Tensor, Geometry]:
        return self.eval(native)

    @abstractmethod
    def extent(self, native: Native) -> tuple[float, ...]:
        """Return what `geometry` asks for of a decoded sample."""

    @abstractmethod
    def geometry(self, *extent: Any) -> Geometry:
        """Return how a sample of that extent lies on the input that `eval` makes of it."""

    @abstractmethod
    def probes(self) -> list[Any]:
        """Return examples as `native` takes them, by which a saved model is compared: uint8 arrays, or encoded bytes.

        The last has to be resized, the others are of the input's size.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return in a sentence what the model is given, for its card."""

    def read_reduced(self, data: bytes, augment: Any) -> Native:
        """As `read`, for training with `augment`: as small as it may be without being enlarged for the input."""
        return self.read(data)

    def check_training(self, augment: Any, decode: str) -> None:
        """Raise ConfigError for changes or a decoding that this kind has not."""


processors: Registry[type[Processor[Any, Any]]] = Registry("modality")
