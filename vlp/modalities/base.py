"""What a modality's processor is: all that lies between stored bytes and the batch, saved with the model's weights.

A modality is a folder here with a processor, registered by the modality's name, and towers registered under the same name
(`vlp.models.towers.base.towers_of`). Its inputs are `Batch.inputs[name]`, its embeddings `ModelOutput.pooled[name]`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from vlp.core.config import ConfigError, to_tree, validate
from vlp.core.registry import Registry
from vlp.core.untrusted import read_json

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


FILE = "preprocess.json"


def read_saved(path: Path) -> dict[str, Any]:
    """Return what a `preprocess.json` holds; raises ConfigError naming it when it is missing or no mapping."""
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read the preprocessing of a model from {path}: {error}") from None


class ImageLike(Processor[Native, "Tensor"]):
    """The processor of what takes the place of the image: one 2-D image, or a volume.

    `extent` are the numbers of a decoded sample by which `geometry(*extent)` says how it lies on the input: what is kept of
    a sample whose input is not.
    """

    Spec: ClassVar[type]
    """The class of its specification: a section of a recipe."""
    kind: ClassVar[str] = "image"
    """Which of the two it is; images came first, and do not say so in their files."""
    version: ClassVar[int] = 1
    """Counted up when a specification comes to mean another input."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec})"

    def save(self, folder: Path | str) -> None:
        """Write `preprocess.json` into a folder."""
        named = {} if self.kind == "image" else {"kind": self.kind}
        text = json.dumps({**named, **to_tree(self.spec), "version": self.version}, indent=2) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read `preprocess.json` of a folder; raises ConfigError naming the file when it is missing or wrong."""
        path = Path(folder) / FILE
        return cls.of_tree(read_saved(path), path)

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any], path: Path) -> Self:
        """Return the processor of what `path` holds; raises ConfigError naming it."""
        given = {name: value for name, value in tree.items() if name not in ("kind", "version")}
        if "version" not in tree:
            raise ConfigError(f"cannot read the preprocessing of a model from {path}: 'version'")
        if tree.get("kind", "image") != cls.kind:
            raise ConfigError(f"{path}: preprocessing of kind {str(tree['kind'])[:80]!r}, expected {cls.kind!r}")
        if tree["version"] != cls.version:
            raise ConfigError(
                f"{path}: preprocessing version {tree['version']}, this vlp knows {cls.version}; update vlp"
            )
        return cls(validate(cls.Spec, given, str(path)))

    @property
    def kinds(self) -> frozenset[str]:
        """What it reads: `image`, `volume` or both, which never share a batch."""
        return frozenset({self.kind})

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
